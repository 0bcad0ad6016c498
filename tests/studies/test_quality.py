import json
from math import exp

import pytest
import torch

from falcon_cli.native.build import load_kernels
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe
from falcon_cli.sources import home
from falcon_cli.studies import quality as module
from falcon_cli.studies.families import built
from falcon_cli.studies.quality import Quality, Reading, read, run
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.model import TargetModel

PROMPT = [5, 9, 2, 30, 77]


@pytest.fixture
def held(chat_target):
    return lambda **changes: load_target(TargetRecipe(str(chat_target), **changes))


@pytest.fixture
def command(chat_target, tmp_path, monkeypatch):
    load_kernels()  # once, from the home that all tests share
    monkeypatch.setenv("FALCON_HOME", str(tmp_path / "home"))
    (tmp_path / "questions.jsonl").write_text('{"prompt": "in the end"}\n{"prompt": "the"}\n')
    settings = [f"target.model={chat_target}", f"dataset={tmp_path / 'questions.jsonl'}", "max_new_tokens=8"]
    return lambda: run(load_recipe(BenchRecipe, None, ["limit=20", *settings]))


def test_the_target_agrees_with_itself(held):
    target = held()
    exact = read(target, PROMPT, 20)
    found = Quality.of([read(target, PROMPT, 20, exact.own)], [exact])
    assert found == Quality.of([exact], [exact])
    assert (found.agreement, found.alike, found.solved) == (1.0, 1.0, None)
    ids = torch.tensor(PROMPT + exact.own)
    logits = target.model.head(target.model.prefill(ids).features_TD)[:-1]
    chances = logits.log_softmax(-1).gather(1, ids[1:, None])
    assert found.prompt_perplexity == pytest.approx(exp(-float(chances[:4].mean())), rel=1e-4)
    assert found.answer_perplexity == pytest.approx(exp(-float(chances[4:].mean())), rel=1e-4)


def test_capped_logits_are_read_as_the_class_makes_them():
    """Gemma 2: the likelihoods are those of its capped logits, not of its LM head's outputs."""
    model = made_twin(built("gemma2"))[0].float()
    model.config.final_logit_softcapping = 3.0
    target = LoadedTarget("small", TargetModel(model), None, frozenset(), "fp32")
    reading = read(target, PROMPT[:4], 6)
    ids = torch.tensor(PROMPT[:4] + reading.own)
    with target.model.plain_transformers() as plain, torch.inference_mode():
        chances = plain(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])
    assert reading.answer_nats == pytest.approx(-float(chances[3:].sum()), rel=1e-3)
    outputs = target.model.head(target.model.prefill(ids).features_TD)[:-1]
    assert (outputs.abs() > 3).any()


def test_other_answers_are_told_apart(held):
    target = held()
    own = read(target, PROMPT, 10).own
    other = [*own[:4], (own[4] + 1) % 200, *own[5:]]
    exact = Reading(PROMPT, other, 1.0, 1.0, len(other), None)
    found = Quality.of([read(target, PROMPT, 10, other)], [exact])
    assert found.alike == pytest.approx(0.4)
    assert found.agreement <= 0.9


def test_every_token_counts_alike_and_so_does_every_answer():
    exact = [Reading([1, 2, 3], [4, 5, 6, 7], 0.0, 0.0, 4, True), Reading([1, 2], [8], 0.0, 0.0, 1, True)]
    found = [Reading([1, 2, 3], [4, 9], 4.0, 3.0, 2, False), Reading([1, 2], [8], 2.0, 2.0, 1, True)]
    assert Quality.of(found, exact) == Quality(exp(2.0), exp(1.0), 0.6, 0.625, 1)


def test_int8_is_coarser_than_bf16_is_coarser_than_fp32(held):
    ids = torch.tensor(PROMPT + read(held(), PROMPT, 20).own)
    logits = {kind: held(quantize=kind).model.prefill(ids).logits_TV for kind in ("none", "bf16", "int8")}
    near, far = ((logits[kind] - logits["none"]).norm() for kind in ("bf16", "int8"))
    assert 0 < near < far


def test_answers_to_questions_with_a_reference_are_marked(held, monkeypatch):
    target = held()
    monkeypatch.setattr(target.tokenizer, "decode", lambda ids, **_: f"so it is {ids[0]}", raising=False)
    number = str(read(target, PROMPT, 5).own[0])
    assert [read(target, PROMPT, 5, reference=one).solved for one in (number, "-1")] == [True, False]


def test_the_command_tells_each_kind_and_prints_a_table(command, capsys):
    command()
    told = capsys.readouterr().err
    assert all(word in told for word in ("fp32: perplexity", "bf16: ", "int8: ", "int4: ", "100.0 %", "2 questions"))
    lines, _, table = told.rpartition("2 questions")
    assert lines.index("fp32: ") < lines.index("int4: ")
    assert "weights" in table


def test_a_stopped_command_goes_on_where_it_was(command, monkeypatch, capsys):
    command()
    whole = capsys.readouterr().err.rpartition("2 questions")[2]
    (log,) = (home() / "quality").iterdir()
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    log.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote the second answer in bf16

    asked = []
    monkeypatch.setattr(module, "read", lambda *about: asked.append(about[1]) or read(*about))
    command()
    assert len(asked) == 5
    assert capsys.readouterr().err.rpartition("2 questions")[2] == whole
    assert log.read_text() == "".join(lines)


def test_ctrl_c_says_where_the_readings_are(command, monkeypatch, capsys):
    done = []

    def interrupted(*about):
        if done:
            raise KeyboardInterrupt
        done.append(read(*about))
        return done[0]

    monkeypatch.setattr(module, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command()
    (log,) = (home() / "quality").iterdir()
    assert f"kept in {log}" in capsys.readouterr().err
    assert [json.loads(line)["weights"] for line in log.read_text().splitlines()] == ["none"]
