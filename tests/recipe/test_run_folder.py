"""The one rule for going on with a run: only where it is asked for, and only with the same settings."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

import pytest

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.checks import Recipe
from falcon_cli.recipe.run_folder import RunFolder, changed_keys


@dataclass(frozen=True)
class Part(Recipe):
    speed: int = 1


@dataclass(frozen=True)
class Whole(Recipe):
    seed: int = 0
    note: str = ""
    part: Part = field(default_factory=Part)


@dataclass(frozen=True)
class Folder(RunFolder):
    FREE: ClassVar[frozenset[str]] = frozenset({"note"})


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.enter(Whole(), ["/usr/bin/falcon", "x"], resume=False)
    return folder


def test_a_run_leaves_its_recipe_and_where_it_comes_from(folder):
    assert (folder.path / "recipe.yaml").read_text() == "seed: 0\nnote: ''\npart:\n  speed: 1\n"
    assert json.loads((folder.path / "provenance.json").read_text())["command"] == ["falcon", "x"]


def test_it_goes_on_only_where_that_is_asked_for(folder):
    with pytest.raises(UsageError, match=r"run already holds a run: add --resume to go on with it, or name another"):
        folder.enter(Whole(), ["falcon"], resume=False)
    assert folder.holds_run(Whole(), resume=True)
    assert folder.holds_run(Whole(note="read twice"), resume=True)


def test_another_recipe_is_refused_by_its_keys(folder):
    with pytest.raises(UsageError, match=r"other settings \(seed, part\.speed changed\): go on with the same ones, or"):
        folder.enter(Whole(seed=2, part=Part(3)), ["falcon"], resume=True)
    assert changed_keys(Whole(), Whole(seed=2, note="x"), frozenset({"note"})) == ["seed"]


def test_an_empty_folder_holds_none_and_resume_begins(tmp_path):
    folder = Folder(tmp_path)
    assert not folder.holds_run(Whole(), resume=True)
    folder.enter(Whole(), ["falcon"], resume=True)
    assert folder.holds_run(Whole(), resume=True)


def test_its_date_is_that_of_its_beginning(folder, clock):
    before = folder.date
    assert before.tzinfo is not None
    assert abs((before - datetime.now().astimezone()).total_seconds()) < 60
    clock("2031-01-01 00:00:00")
    folder.enter(Whole(), ["falcon"], resume=True)
    assert folder.date == before
    (folder.path / "provenance.json").write_text("{}")
    with pytest.raises(FalconError, match=r"provenance\.json does not tell the date of the run: name another --out"):
        _ = folder.date


def test_a_file_in_its_place_is_one_line(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(FalconError, match="should be a folder and is not one"):
        Folder(tmp_path / "taken").enter(Whole(), ["falcon"], resume=False)
