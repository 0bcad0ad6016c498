import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.load import dump, load_recipe
from falcon_cli.recipe.schema import BenchRecipe


@dataclass(frozen=True)
class Stage:
    name: str
    rate: float = 1e-3


@dataclass(frozen=True)
class Whole:
    stages: tuple[Stage, ...] = (Stage("one"),)
    betas: tuple[float, float] = (0.9, 0.95)
    sizes: list[int] = field(default_factory=list)
    mode: Literal["time", "position"] = "time"
    depth: Literal[2, 4] = 2
    note: str | None = None
    fast: bool = False
    extra: Stage | None = None


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return load_recipe(Whole, path, overrides)

    return load


def test_all_kinds_of_fields(load):
    text = """
        stages: [{name: a, rate: 3e-5}, {name: b, rate: 1}]
        betas: [0.8, 0.9]
        sizes: [1, 2]
        mode: position
        depth: 4
        note: é
        fast: true
        extra: {name: c}
    """
    recipe = load(text)
    assert recipe == Whole(
        (Stage("a", 3e-5), Stage("b", 1.0)), (0.8, 0.9), [1, 2], "position", 4, "é", True, Stage("c")
    )
    assert isinstance(recipe.stages[1].rate, float)
    assert load(dump(recipe)) == recipe


def test_an_empty_file_gives_the_defaults_and_so_does_none(load):
    assert load("# nothing\n") == Whole() == load_recipe(Whole)


def test_overrides_win_over_the_file(load):
    recipe = load("extra: {name: c, rate: 2.0}", "extra.rate=3", "mode=position", "sizes=[5]", "note=a=b", "fast=true")
    assert recipe == Whole(sizes=[5], mode="position", note="a=b", fast=True, extra=Stage("c", 3.0))
    assert load("", "extra.name=new").extra == Stage("new")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mdoe: time", r"mdoe: unknown key \(did you mean mode\?\)"),
        ("extra: {name: c, rat: 1}", r"extra\.rat: unknown key \(did you mean rate\?\)"),
        ("1: 2", "1: unknown key"),
        ("extra: {rate: 1}", r"extra\.name: must be given"),
        ("stages: [{name: a}, {name: [b]}]", r"stages\.1\.name: must be text"),
        ("stages: one", "stages: must be a list, not one"),
        ("betas: [1]", "betas: must be a list of 2 values, not a list of 1"),
        ("betas: [1, .nan]", r"betas\.1: must be a number"),
        ("betas: [1, fast]", r"betas\.1: must be a number, not fast"),
        ("betas: [1, true]", r"betas\.1: must be a number, not true"),
        ("sizes: [1.5]", r"sizes\.0: must be a whole number, not 1\.5"),
        ("sizes: [true]", r"sizes\.0: must be a whole number, not true"),
        ("mode: space", "mode: must be one of time, position, not space"),
        ("depth: 3", "depth: must be one of 2, 4, not 3"),
        ("note: 7", r"note: must be text \(put it in quotes\), not 7"),
        ("fast: 1", "fast: must be true or false, not 1"),
        ("fast:", "fast: must be true or false, not empty"),
        ("extra: 3", "extra: must be a mapping of keys to values, not 3"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_key(load, text, reason):
    with pytest.raises(FalconError, match=rf"recipe\.yaml: {reason}"):
        load(text)


def test_malformed_yaml_is_named_by_line(load):
    with pytest.raises(FalconError, match=r"recipe\.yaml:2: not YAML: "):
        load("fast: true\nmode: time: position\n")
    with pytest.raises(FalconError, match="not YAML: "):
        load("note: \x07")
    with pytest.raises(FalconError, match="a recipe is a mapping"):
        load("- fast")


def test_no_such_file(tmp_path):
    with pytest.raises(FalconError, match=r"cannot read .*none\.yaml: No such file"):
        load_recipe(Whole, tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["fast", "=1", "a..b=1", "fast=[", "mode.deep=1"])
def test_a_malformed_override_is_wrong_usage(load, override):
    with pytest.raises(UsageError, match="--set"):
        load("mode: time", override)


@pytest.mark.parametrize("override", ["fsat=true", "fast=7", "extra.rat=1"])
def test_a_wrong_override_is_not_blamed_on_the_file(load, override):
    with pytest.raises(FalconError, match=f"^--set {override.split('=')[0]}: "):
        load("", override)


def test_a_recipes_own_check_is_told_with_file_and_key(tmp_path):
    path = tmp_path / "bench.yaml"
    path.write_text("target: {threads: 0}")
    with pytest.raises(FalconError, match=r"bench\.yaml: target\.threads must be at least 1, not 0"):
        load_recipe(BenchRecipe, path)
    with pytest.raises(FalconError, match=r"^--set limit must be at least 1, not 0"):
        load_recipe(BenchRecipe, path, ["target.threads=2", "limit=0"])


def test_recipes_load_no_torch():
    code = (
        "import sys, falcon_cli.recipe.load, falcon_cli.recipe.schema, falcon_cli.recipe.provenance, falcon_cli.sources"
    )
    check = f"{code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True).returncode == 0
