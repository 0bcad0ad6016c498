import inspect

import pytest

from falcon_cli.commands.options import LimitOption, OutOption, SeedOption
from falcon_cli.commands.shared import SharedOptions, override, refuse, with_options
from falcon_cli.errors import UsageError
from falcon_cli.recipe.schema import BenchRecipe, GenerateRecipe


def test_given_options_win_and_the_others_leave_the_recipe_alone():
    recipe = BenchRecipe(dataset="gsm8k", limit=3, methods=("pld",), seed=4)
    changed = override(recipe, dataset=None, limit=9, methods=["ar", "lookahead"], peers=[], seed=0)
    assert changed == BenchRecipe(dataset="gsm8k", limit=9, methods=("ar", "lookahead"), seed=0)


def test_options_of_the_target_go_into_its_part():
    changed = override(GenerateRecipe(), target="here", dtype="fp16", threads=2, trust_remote_code=False, raw=True)
    assert (changed.target.model, changed.target.dtype, changed.target.threads) == ("here", "fp16", 2)
    assert changed.raw is True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"dtype": "fp64"}, "dtype must be one of auto, fp32, bf16, fp16, not fp64"),
        ({"raw": True, "system": "Be brief."}, "leave out system"),
        ({"stop": [""]}, "stop: an empty text"),
    ],
)
def test_a_value_that_does_not_suit_is_wrong_usage(given, message):
    with pytest.raises(UsageError, match=message):
        override(GenerateRecipe(), **given)


def test_an_option_that_the_recipe_does_not_know_is_an_error_and_never_dropped():
    with pytest.raises(
        UsageError, match=r"a GenerateRecipe has no key max_new_token \(did you mean max_new_tokens\?\)"
    ):
        override(GenerateRecipe(), max_new_token=3)
    override(GenerateRecipe(), max_new_token=None)


def test_a_command_takes_its_own_options_first_and_shared_ones_behind_them():
    seen = {}

    @with_options({"seed": SeedOption}, {"limit": LimitOption})
    def command(shared: SharedOptions, out: OutOption = None) -> None:
        """What it does."""
        seen.update(out=out, **shared.values)

    assert list(inspect.signature(command).parameters) == ["out", "seed", "limit"]
    assert command.__doc__ == "What it does."
    command(out="here", seed=3, limit=None)
    assert seen == {"out": "here", "seed": 3, "limit": None}


def test_the_recipe_is_the_file_then_set_then_the_options(tmp_path):
    (tmp_path / "recipe.yaml").write_text("limit: 1\nseed: 1\nrepeats: 4\ntarget: {threads: 3}\n")
    shared = SharedOptions({"recipe": tmp_path / "recipe.yaml", "set_": ["limit=2", "seed=2"], "threads": 5})
    recipe = shared.recipe(BenchRecipe, settings=("seed=9", "max_new_tokens=7"), limit=3)
    assert (recipe.limit, recipe.seed, recipe.repeats, recipe.max_new_tokens, recipe.target.threads) == (3, 2, 4, 7, 5)


def test_options_that_do_not_belong_are_refused_by_their_names():
    given = {
        "target": "t",
        "method": [],
        "peer": None,
        "resume": False,
        "seed": 0,
        "draft_model": "d",
        "compile_": True,
    }
    with pytest.raises(UsageError, match=r"^so it is: leave out --seed, --draft-model, --compile$"):
        refuse(given, ("target", "limit"), "so it is")
    refuse(given, ("target", "seed", "draft_model", "compile_"), "so it is")
