"""Several data sets: one run folder each, what is measured is not measured again, and one table over all."""

import json
from dataclasses import replace

import pytest

from falcon_cli.bench import suite
from falcon_cli.bench.folder import BenchFolder
from falcon_cli.bench.suite import SuiteResult, run
from falcon_cli.errors import UsageError
from falcon_cli.recipe.schema import BenchRecipe

ARGV = ["falcon", "bench"]


@pytest.fixture
def data(tmp_path):
    """Two data sets of one question."""
    paths = [tmp_path / f"{name}.jsonl" for name in ("tales", "sums")]
    for path in paths:
        path.write_text('{"prompt": "once"}\n')
    return tuple(map(str, paths))


@pytest.fixture
def recipe(data):
    return BenchRecipe(datasets=data, methods=("pld",), table=1)


@pytest.fixture
def measured(monkeypatch, results, records):
    """Data sets that were measured, in order; measuring writes a whole run folder of an invented run."""
    done = []

    def bench(plan, argv, out, resume):
        folder = BenchFolder.open(out, plan, argv, resume)
        done.append(out.name)
        document = {**results, "dataset": plan.dataset, "machine": {**results["machine"], "command": list(argv)}}
        for question in dict.fromkeys(record.question_id for record in records):
            folder.log.append([record for record in records if record.question_id == question])
        folder.write(document, records)
        return document

    monkeypatch.setattr(suite, "bench", bench)
    return done


def test_each_data_set_has_a_run_folder_and_all_results_are_one_document(recipe, measured, tmp_path, capsys):
    out = tmp_path / "out"
    document = run(recipe, ARGV, out).document
    assert (document["schema"], document["table"]) == (1, 1)
    assert list(document["datasets"]) == measured == ["tales", "sums"]
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(document))
    for name, dataset in zip(measured, recipe.datasets, strict=True):
        kept = (out / name / "recipe.yaml").read_text()
        assert f"dataset: {dataset}\n" in kept
        assert "datasets: []" in kept
        assert json.loads((out / name / "results.json").read_text())["dataset"] == dataset
    told = capsys.readouterr().err
    assert told.index("tales: data set 1 of 2") < told.index("sums: data set 2 of 2")
    assert told.count("lossless") == 2


def test_what_is_measured_is_not_measured_again_whatever_the_table(recipe, measured, tmp_path):
    first = run(recipe, ARGV, tmp_path / "out").document
    second = run(replace(recipe, table=3), ARGV, tmp_path / "out", resume=True).document
    assert measured == ["tales", "sums"]
    assert (second["table"], second["datasets"]) == (3, json.loads(json.dumps(first["datasets"])))


def test_an_interrupted_suite_goes_on_and_may_take_in_more_data_sets(recipe, data, measured, tmp_path):
    out = tmp_path / "out"
    run(replace(recipe, datasets=data[:1]), ARGV, out)
    assert list(run(recipe, ARGV, out, resume=True).datasets) == measured == ["tales", "sums"]
    log = out / "sums" / "records.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))  # killed before the last question
    run(recipe, ARGV, out, resume=True)
    assert measured == ["tales", "sums", "sums"]


def test_a_folder_that_cannot_be_gone_on_with_is_refused_before_anything_is_measured(recipe, data, measured, tmp_path):
    out = tmp_path / "out"
    run(replace(recipe, datasets=data[1:]), ARGV, out)
    with pytest.raises(UsageError, match=r"sums already holds a run: add --resume"):
        run(recipe, ARGV, out)
    with pytest.raises(UsageError, match=r"\(seed changed\)"):
        run(replace(recipe, seed=5), ARGV, out, resume=True)
    assert measured == ["sums"]


def test_runs_of_one_and_of_several_data_sets_do_not_share_a_folder(recipe, data, measured, tmp_path):
    run(recipe, ARGV, tmp_path / "several")
    single = replace(recipe, datasets=(), dataset=data[0])
    with pytest.raises(UsageError, match="several holds the results of several data sets: name another --out"):
        BenchFolder.open(tmp_path / "several", single, ARGV, resume=True)
    suite.bench(single, ARGV, tmp_path / "one", False)
    with pytest.raises(UsageError, match="one holds the run of one data set: name another --out"):
        run(recipe, ARGV, tmp_path / "one", resume=True)


def test_out_is_needed(recipe, measured):
    with pytest.raises(UsageError, match="several data sets need --out"):
        run(recipe, ARGV, None)


def test_every_data_set_is_looked_for_before_the_first_is_measured(recipe, data, measured, tmp_path):
    with pytest.raises(UsageError, match='no data set or file "gsm9k"'):
        run(replace(recipe, datasets=(data[0], "gsm9k")), ARGV, tmp_path / "out")
    with pytest.raises(UsageError, match="would have the same folder as another"):
        run(replace(recipe, datasets=(data[0], data[0])), ARGV, tmp_path / "out")
    assert measured == []


def test_the_papers_table_is_shown_and_written(recipe, data, measured, tmp_path, capsys):
    run(replace(recipe, table=2), ARGV, tmp_path / "several")
    told = capsys.readouterr().err
    assert told.rindex("lossless") < told.index("beside Table 2 of arXiv 2412.12639")
    assert told.splitlines()[-1].startswith(f"wrote {tmp_path}/several/table.md, results.json, and for each data set ")
    text = (tmp_path / "several" / "table.md").read_text()
    assert text.startswith("# Acceptance rate α")
    assert "| sums | `falcon` |" in text


def test_one_data_set_is_an_ordinary_run_with_the_table_if_it_is_wanted(recipe, data, measured, tmp_path, capsys):
    single = replace(recipe, datasets=(), dataset=data[0])
    outcome = run(single, ARGV, tmp_path / "one")
    assert outcome.document == outcome.datasets[data[0]]
    assert outcome.document["methods"]
    assert (tmp_path / "one" / "table.md").is_file()
    run(replace(single, table=None), ARGV, tmp_path / "another")
    assert not (tmp_path / "another" / "table.md").exists()
    assert capsys.readouterr().err.count("arXiv 2412.12639, Table 1") == 1


def test_failures_name_their_data_set_where_there_are_several(results):
    assert SuiteResult({}, {"mt-bench": results}).failed_methods() == ["pld"]
    both = SuiteResult({}, {"mt-bench": results, "gsm8k": results})
    assert both.failed_methods() == ["pld on mt-bench", "pld on gsm8k"]
