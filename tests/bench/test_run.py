"""A benchmark's reference: plain decoding against the model's own words."""

import json
import shutil

import pytest

from falcon_cli.bench.run import bench, failed_methods
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe


@pytest.fixture
def run(home, chat_target, monkeypatch, tmp_path):
    """Benchmark pld on one question of the tiny target: `run(quantize="int8")`."""
    monkeypatch.setattr("falcon_cli.bench.figures.bandwidth.BUFFER_BYTES", 1 << 20)
    (tmp_path / "asked.jsonl").write_text('{"question_id": "q", "prompt": "in the end the end"}\n')

    def call(folder=chat_target, peers=(), prompt=None, **target):
        if prompt:
            (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": prompt}) + '\n{"prompt": "hi"}\n')
        recipe = BenchRecipe(
            TargetRecipe(str(folder), **target),
            dataset=str(tmp_path / "asked.jsonl"),
            methods=("pld",),
            peers=peers,
            max_new_tokens=12,
            keep_going=bool(prompt),
        )
        return bench(recipe, ["falcon", "bench"])

    return call


@pytest.mark.parametrize("target", [{}, {"kernels": "torch"}, {"compile": True}])
def test_a_model_that_falcon_reads_wrongly_fails(run, misread, capsys, target):
    reference = run(**target)["reference"]
    assert (reference["verdict"], reference["tokens"], reference["prompt"]) == ("equal", 32, "q")
    misread()
    results = run(**target)
    assert (results["reference"]["verdict"], results["methods"]["pld"]["lossless"]["verdict"]) == ("FAILED", "exact")
    position = results["reference"]["position"]
    (failed,) = failed_methods(results)
    assert failed.startswith(f"ar (reference: FAILED at token {position}")
    assert f"warning: reference: FAILED at token {position}" in capsys.readouterr().err


def test_quantised_weights_get_their_agreement(run):
    results = run(quantize="int8")
    assert results["reference"]["verdict"] is None
    assert 0.5 < results["reference"]["agreement"] <= 1
    assert failed_methods(results) == []


def test_no_folder_is_in_the_results(run, chat_target, tmp_path):
    results = run()
    assert (results["target"], results["dataset"]) == (chat_target.name, "asked.jsonl")
    assert str(tmp_path) not in json.dumps(results)
    assert str(chat_target) not in json.dumps(results)


def test_a_penalty_in_the_targets_configuration_changes_nothing(run, chat_target, tmp_path, capsys):
    folder = shutil.copytree(chat_target, tmp_path / "penalised")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "repetition_penalty": 1.3}))
    results = run(folder, peers=("hf",))
    assert results["reference"]["verdict"] == "equal"
    assert results["peers"]["hf"]["prompts_equal"] == 1
    assert capsys.readouterr().err.count("asks for repetition_penalty 1.3: falcon decodes plainly") == 1


def test_a_first_prompt_beyond_the_context_leaves_a_reason(run):
    results = run(prompt="word " * 300)
    assert results["prompts"] == 1
    assert results["reference"]["reason"] == "the first prompt does not fit the context"
    assert failed_methods(results) == []


def test_documents_of_earlier_days_have_no_reference(results):
    del results["reference"]
    assert failed_methods(results) == ["pld"]
    results["reference"] = None
    assert failed_methods(results) == ["pld"]
