"""Every recipe is read by its command, and says what it is for and how to run it."""

from pathlib import Path

import pytest

from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe, GenerateRecipe
from falcon_cli.recipe.tune import TuneTreeRecipe

ROOT = Path(__file__).parents[2]
KINDS = {"bench": BenchRecipe, "distill": DistillRecipe, "generate": GenerateRecipe, "tune-tree": TuneTreeRecipe}
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_recipes_and_nothing_else_is_called_yml():
    assert {path.parent.name for path in RECIPES} >= KINDS.keys()
    assert list((ROOT / "recipes").rglob("*.yml")) == []


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_is_read_by_the_command_of_its_folder(path):
    load_recipe(KINDS[path.parent.name], path)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_begins_with_what_it_does_and_the_command(path):
    lines = path.read_text().splitlines()
    length = next(place for place, line in enumerate(lines) if not line.startswith("#"))
    header = [line.removeprefix("#").strip() for line in lines[:length]]
    assert length >= 2
    assert len(header[0]) > 20
    command = "falcon distill" if path.parent.name == "distill" else f"falcon {path.parent.name} --recipe"
    assert any(line.startswith(f"{command} {name(path)}") for line in header)
