"""A run folder is created once, and continued only by the same recipe."""

import json
from dataclasses import replace

import pytest

from falcon_cli.distill.folder import DistillFolder
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.distill import DistillRecipe, LoraRecipe, NetworkRecipe, TrainingRecipe
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.run_folder import changed_keys

ARGV = ["/usr/bin/falcon", "distill", "recipes/distill/smoke.yaml"]


@pytest.fixture
def recipe(tmp_path):
    return DistillRecipe(out=str(tmp_path / "runs" / "one"), training=TrainingRecipe(steps=7), seed=3)


def test_a_fresh_folder_records_recipe_and_command(recipe):
    folder = DistillFolder.open(recipe, ARGV, resume=False)
    assert load_recipe(DistillRecipe, folder.path / "recipe.yaml") == recipe
    assert json.loads((folder.path / "provenance.json").read_text())["command"] == ["falcon", *ARGV[1:]]
    assert sorted(path.name for path in folder.path.iterdir()) == ["provenance.json", "recipe.yaml"]


def test_everything_has_its_place_in_the_folder(recipe):
    folder = DistillFolder.open(recipe, ARGV, resume=True)
    places = (folder.answers, folder.features, folder.state, folder.drafter, folder.metrics, folder.held_out)
    names = ["answers.jsonl", "features", "state", "drafter", "metrics.jsonl", "held_out.jsonl", "curves.png"]
    assert [str(place.relative_to(folder.path)) for place in (*places, folder.curves)] == names


def test_a_folder_that_holds_a_run_wants_resume(recipe):
    DistillFolder.open(recipe, ARGV, resume=False)
    with pytest.raises(UsageError, match=r"already holds a run: add --resume to go on with it, or name another --out"):
        DistillFolder.open(recipe, ARGV, resume=False)
    assert str(DistillFolder.open(recipe, ARGV, resume=True).path) == recipe.out


def test_a_folder_of_other_things_is_begun_in(recipe, tmp_path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "notes.txt").write_text("mine")
    DistillFolder.open(recipe, ARGV, resume=False)
    assert (tmp_path / "runs" / "one" / "notes.txt").read_text() == "mine"


def test_a_changed_recipe_is_refused_by_its_keys(recipe):
    DistillFolder.open(recipe, ARGV, resume=False)
    changed = replace(
        recipe, noise=0.2, network=NetworkRecipe(k=3), training=TrainingRecipe(steps=7, betas=(0.9, 0.99))
    )
    with pytest.raises(UsageError, match=r"other settings \(network\.k, noise, training\.betas changed\)"):
        DistillFolder.open(changed, ARGV, resume=True)


def test_what_does_not_touch_the_learning_may_change(recipe):
    DistillFolder.open(recipe, ARGV, resume=False)
    free = replace(
        recipe,
        training=replace(recipe.training, save_minutes=1.0, decode_prompts=0),
        cache=replace(recipe.cache, max_gb=9.0),
    )
    DistillFolder.open(free, ARGV, resume=True)
    assert changed_keys(recipe, replace(free, out="elsewhere"), DistillFolder.FREE) == []
    assert load_recipe(DistillRecipe, DistillFolder.open(recipe, ARGV, True).path / "recipe.yaml") == recipe


def test_a_part_that_comes_or_goes_is_a_change():
    before = DistillRecipe(init_from="a")
    adapted = DistillRecipe(init_from="a", lora=LoraRecipe())
    assert changed_keys(before, adapted) == changed_keys(adapted, before) == ["lora.rank", "lora.alpha"]


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_in_its_place_is_one_line(recipe, tmp_path, below):
    (tmp_path / "taken").touch()
    with pytest.raises(FalconError, match="should be a folder and is not one") as caught:
        DistillFolder.open(replace(recipe, out=str(tmp_path / "taken" / below)), ARGV, resume=False)
    assert "\n" not in str(caught.value)


def test_a_forbidden_place_is_one_line(recipe, monkeypatch):
    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", forbidden)
    with pytest.raises(FalconError, match=r"no permission to write .*one: choose another place"):
        DistillFolder.open(recipe, ARGV, resume=False)
