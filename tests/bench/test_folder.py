"""A run folder is opened once, resumed only with the same settings, and written whole."""

import json
from dataclasses import replace

import pytest

from falcon_cli.bench.folder import BenchFolder, file_name
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import BenchRecipe

RECIPE = BenchRecipe(limit=3)


def test_a_new_folder_holds_recipe_and_provenance(tmp_path):
    folder = BenchFolder.open(tmp_path / "deep" / "run", RECIPE, ["falcon", "bench"], resume=False)
    assert json.loads((folder.path / "provenance.json").read_text())["command"] == ["falcon", "bench"]
    assert "limit: 3" in (folder.path / "recipe.yaml").read_text()


@pytest.fixture
def begun(tmp_path, records):
    """A folder whose first question is measured."""
    folder = BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=False)
    folder.log.append([record for record in records if record.question_id == records[0].question_id])
    return folder


def test_a_folder_with_a_run_needs_resume(tmp_path, begun):
    with pytest.raises(UsageError, match="--resume"):
        BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=False)
    assert BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=True).path == tmp_path


def test_resuming_with_other_settings_names_them(tmp_path, begun):
    with pytest.raises(UsageError, match=r"\(max_new_tokens, seed changed\)"):
        BenchFolder.open(tmp_path, replace(RECIPE, seed=4, max_new_tokens=9), ["falcon"], resume=True)


def test_what_is_shown_of_a_run_may_change(tmp_path, begun):
    view = replace(RECIPE, datasets=("gsm8k", "mt-bench"), table=2)
    assert BenchFolder.open(tmp_path, view, ["falcon"], resume=True).log.read()
    assert begun.holds_run(view, resume=True)
    assert not BenchFolder(tmp_path / "elsewhere").holds_run(view, resume=False)


def test_results_are_those_of_a_whole_run(tmp_path, begun, results):
    assert begun.results() is None
    (tmp_path / "results.json").write_text(json.dumps({**results, "prompts": 2}))
    assert begun.results() is None  # of an earlier run: only one question is measured in this one
    (tmp_path / "results.json").write_text(json.dumps({**results, "prompts": 1}))
    assert begun.results()["methods"].keys() == results["methods"].keys()
    (tmp_path / "results.json").write_text("{")
    assert begun.results() is None


def test_results_of_several_data_sets_are_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 1, "table": 1, "datasets": {}}')
    with pytest.raises(UsageError, match="holds the results of several data sets: name another --out"):
        BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=True)


def test_a_run_that_measured_nothing_binds_nobody(tmp_path):
    BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=False)
    folder = BenchFolder.open(tmp_path, replace(RECIPE, seed=4), ["falcon"], resume=False)
    assert "seed: 4" in (folder.path / "recipe.yaml").read_text()


def test_resume_of_an_empty_folder_begins(tmp_path):
    assert BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=True).log.read() == []


def test_a_file_in_the_folders_place_is_one_clear_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(FalconError, match="run"):
        BenchFolder.open(tmp_path / "run", RECIPE, ["falcon"], resume=False)


def test_everything_is_written_and_answers_are_one_file_a_method(tmp_path, results, records):
    folder = BenchFolder.open(tmp_path, RECIPE, ["falcon"], resume=False)
    document = {**results, "machine": {**results["machine"], "command": ["falcon", "bench", "--set", "a=b c"]}}
    folder.write(document, records)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(document))
    assert "falcon bench --set 'a=b c'" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")
    methods = {record.method for record in records}
    assert {path.stem for path in (tmp_path / "answers").iterdir()} == methods
    answer = json.loads((tmp_path / "answers" / "ar.jsonl").read_text().splitlines()[0])
    assert set(answer["choices"][0]) >= {"turns", "decoding_steps", "new_tokens", "wall_time", "accept_lengths"}


def test_method_settings_become_a_plain_file_name():
    assert file_name("lookahead:window=7,ngram=5") == "lookahead_window-7_ngram-5"
    assert "/" not in file_name("../x")
