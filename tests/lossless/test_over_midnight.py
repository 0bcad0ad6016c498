"""A run that goes on after midnight asks what it asked before, though its template writes the date or the time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from falcon_cli.bench.measuring.session import BenchmarkSession
from falcon_cli.bench.run import bench
from falcon_cli.distill import prepare
from falcon_cli.distill.run import distill
from falcon_cli.recipe.distill import AnswersRecipe, CorpusRecipe, DistillRecipe, TrainingRecipe
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe

ARGV = ["falcon"]
BEFORE, AFTER = "2026-02-28 23:59:58", "2026-03-01 00:00:03"


@pytest.fixture(autouse=True)
def cache(home, monkeypatch):
    monkeypatch.setattr("falcon_cli.bench.figures.bandwidth.BUFFER_BYTES", 1 << 20)


@pytest.fixture(params=["date", "time"])
def template(request, template_file):
    """A template that writes one of them."""
    return str(template_file(request.param))


def lines(path: Path):
    return list(map(json.loads, path.read_text().splitlines()))


def test_bench_asks_and_certifies_the_same(chat_target, template, tmp_path, clock, monkeypatch):
    dataset = tmp_path / "asked.jsonl"
    dataset.write_text("".join(json.dumps({"turns": [f"{n}, please.", "More?"]}) + "\n" for n in range(3)))
    target = TargetRecipe(str(chat_target), kernels="torch")
    recipe = BenchRecipe(
        target=target, template=template, dataset=str(dataset), methods=("pld", "lookahead"), max_new_tokens=12
    )
    clock(BEFORE)
    bench(recipe, ARGV, tmp_path / "whole")
    ask, out = BenchmarkSession.ask, tmp_path / "run"

    def midnight(session, question):
        if question.id == "3":
            raise KeyboardInterrupt
        clock(AFTER)
        yield from ask(session, question)

    with monkeypatch.context() as patch:
        patch.setattr(BenchmarkSession, "ask", midnight)
        with pytest.raises(KeyboardInterrupt):
            bench(recipe, ARGV, out)
    assert len(lines(out / "records.jsonl")) == 2
    results = bench(recipe, ARGV, out, resume=True)
    assert {figures["lossless"]["verdict"] for figures in results["methods"].values()} == {"exact"}
    run, whole = (lines(folder / "records.jsonl") for folder in (out, tmp_path / "whole"))
    assert [line["prompts"] for line in run] == [line["prompts"] for line in whole]
    answers = [
        [sorted((r["method"], r["turn"], r["ids"]) for r in line["records"]) for line in it] for it in (run, whole)
    ]
    assert answers[0] == answers[1]
    assert date_of(out) == "2026-02-28T23:59:58"


def test_distill_finds_its_answers_again(chat_target, template, tmp_path, clock, monkeypatch):
    corpus = tmp_path / "corpus.jsonl"
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a thing in the end"}]
    corpus.write_text(
        "".join(json.dumps({"messages": [{**said[0], "content": f"{n}, please."}, said[1]]}) + "\n" for n in range(6))
    )
    recipe = DistillRecipe(
        target=TargetRecipe(str(chat_target), kernels="torch"),
        corpus=CorpusRecipe(
            sources=(str(corpus),), template=template, held_out=2, min_answer_tokens=1, exclude=(), drop_loops=False
        ),
        answers="target",
        generation=AnswersRecipe(max_new_tokens=12),
        training=TrainingRecipe(steps=2, batch_tokens=256, decode_prompts=1),
        out=str(tmp_path / "run"),
    )
    clock(BEFORE)
    answered = prepare.target_answers

    def killed(*arguments):
        answered(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "target_answers", killed)
        with pytest.raises(KeyboardInterrupt):
            distill(recipe, ARGV)
    answers = (tmp_path / "run" / "answers.jsonl").read_text()
    assert len(answers.splitlines()) == 6
    clock(AFTER)
    resumed = distill(recipe, ARGV, resume=True)
    assert (tmp_path / "run" / "answers.jsonl").read_text() == answers  # none is asked for again
    assert date_of(tmp_path / "run") == "2026-02-28T23:59:58"
    clock(BEFORE)
    straight = distill(replace(recipe, out=str(tmp_path / "straight")), ARGV)
    assert straight["held_out"] == resumed["held_out"]


def date_of(folder: Path) -> str:
    """The local date and time in a run's provenance."""
    return json.loads((folder / "provenance.json").read_text())["date"][:19]
