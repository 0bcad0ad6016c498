"""The texts of a recipe, with the corpus' answers or the target's."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from falcon_cli.console import duration
from falcon_cli.distill import prepare as module
from falcon_cli.distill.folder import DistillFolder
from falcon_cli.distill.kernel_copy import KernelCopy
from falcon_cli.distill.prepare import prepare
from falcon_cli.recipe.distill import AnswersRecipe, CorpusRecipe, DistillRecipe
from falcon_cli.recipe.provenance import provenance
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target


@pytest.fixture
def inputs(chat_target, tmp_path):
    """(recipe, what reads texts, folder) for six short dialogues."""
    path = tmp_path / "corpus.jsonl"
    reply = {"role": "assistant", "content": "one, two"}
    asked = [{"role": "user", "content": f"Count to {n}."} for n in range(6)]
    lines = [{"id": f"d{n}", "messages": [question, reply]} for n, question in enumerate(asked)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = CorpusRecipe(sources=(str(path),), held_out=2, min_answer_tokens=2, exclude=())
    target = load_target(TargetRecipe(str(chat_target), kernels="torch"))
    folder = DistillFolder(Path(tmp_path))
    folder.put("provenance.json", json.dumps(provenance(["falcon"])))
    reading = KernelCopy(TargetRecipe(str(chat_target), kernels="torch"), target)
    return DistillRecipe(corpus=corpus, generation=AnswersRecipe(8, 4)), reading, folder


def test_the_corpus_own_answers_are_taken(inputs, capsys):
    recipe, reading, folder = inputs
    corpus = prepare(recipe, reading, folder, Accelerator(cpu=True))
    assert (len(corpus.train), len(corpus.held_out)) == (4, 2)
    assert "one, two" in reading.original.tokenizer.decode(corpus.train[0].tokens)
    assert not folder.answers.exists()
    assert "6 dialogues read: 6 used, 0 left out" in capsys.readouterr().err


def test_the_target_s_answers_are_made_and_kept(inputs):
    recipe, reading, folder = inputs
    recipe = replace(recipe, answers="target")
    corpus = prepare(recipe, reading, folder, Accelerator(cpu=True))
    assert len(corpus.train) == 4
    assert len(folder.answers.read_text().splitlines()) == 6
    before = folder.answers.read_bytes()
    again = prepare(recipe, reading, folder, Accelerator(cpu=True))
    assert again.train == corpus.train
    assert folder.answers.read_bytes() == before


def test_quantised_weights_may_answer_and_are_gone_when_texts_are_read(inputs, monkeypatch):
    recipe, reading, folder = inputs
    reading = KernelCopy(TargetRecipe(reading.recipe.model), reading.original)
    kinds, real = [], module.target_answers

    def spied(target, *rest):
        kinds.append(target.model.native.kind)
        real(target, *rest)

    monkeypatch.setattr(module, "target_answers", spied)
    for quantize in ("none", "int8"):
        folder.answers.unlink(missing_ok=True)
        made = replace(recipe, answers="target", generation=AnswersRecipe(8, 4, quantize))
        assert len(prepare(made, reading, folder, Accelerator(cpu=True)).train) == 4
        assert len(folder.answers.read_text().splitlines()) == 6
    assert kinds == ["fp32", "int8"]
    assert reading.target.model.native.kind == "fp32"


@pytest.mark.parametrize("answers", ["dataset", "target"])
def test_a_run_goes_on_with_its_texts_whatever_became_of_their_source(inputs, answers, capsys):
    recipe, reading, folder = inputs
    recipe = replace(recipe, answers=answers)
    first = prepare(recipe, reading, folder, Accelerator(cpu=True))
    told = capsys.readouterr().err.partition("corpus:")[2]
    Path(recipe.corpus.sources[0]).unlink()
    again = prepare(recipe, reading, folder, Accelerator(cpu=True))
    assert (again.train, again.held_out, again.tally) == (first.train, first.held_out, first.tally)
    assert capsys.readouterr().err.partition("corpus:")[2] == told  # the same numbers


@pytest.mark.parametrize("answers", ["dataset", "target"])
def test_texts_with_a_token_without_a_row_are_left_out_and_told_of(inputs, answers, capsys):
    recipe, reading, folder = inputs
    tokenizer = copy.deepcopy(reading.original.tokenizer)
    tokenizer.add_tokens(["Count to 3"])
    reading = KernelCopy(reading.recipe, replace(reading.original, tokenizer=tokenizer))
    corpus = prepare(replace(recipe, answers=answers), reading, folder, Accelerator(cpu=True))
    assert len(corpus.train + corpus.held_out) == 5
    assert corpus.tally.left_out == {"at the token Count to 3, which the model cannot read": 1}
    assert "1 at the token Count to 3, which the model cannot read" in capsys.readouterr().err


def test_a_dry_run_estimates_the_answers_and_makes_none(inputs, capsys):
    recipe, reading, folder = inputs
    corpus = prepare(replace(recipe, answers="target"), reading, None, Accelerator(cpu=True))
    assert len(corpus.train) == 4
    assert "6 prompts to be answered at about" in capsys.readouterr().err
    assert not folder.answers.exists()


def test_reading_prompts_and_answering_them_are_estimated_separately(inputs, capsys, monkeypatch):
    """Two batches of six prompts alike, four and two: 10 s to read four, 2 s a token."""
    recipe, reading, _ = inputs
    recipe = replace(recipe, answers="target", generation=AnswersRecipe(max_new_tokens=100, batch_size=4))
    monkeypatch.setattr(module, "_seconds", lambda target, prompts, tokens: 10 + 2 * (tokens - 1))
    prepare(recipe, reading, None, Accelerator(cpu=True))
    seconds = 10 * 6 / 4 + 2 * 100 * 2
    line = f"6 prompts to be answered at about {6 * 100 / seconds:,.0f} tokens/s: {duration(seconds / 3600)} if every"
    assert line in capsys.readouterr().err
