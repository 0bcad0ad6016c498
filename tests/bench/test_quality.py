from math import exp

import pytest
import torch

from falcon_cli.bench.quality import Text, greedy, main, quality
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target

PROMPT = [5, 9, 2, 30, 77]


@pytest.fixture
def held(chat_target):
    return lambda **changes: load_target(TargetRecipe(str(chat_target), **changes))


def test_the_target_agrees_with_itself(held):
    target = held()
    text = Text(PROMPT, greedy(target, PROMPT, 20))
    found = quality(target, [text], 20)
    assert (found.agreement, found.alike) == (1.0, 1.0)
    logits = target.model.head(target.model.prefill(torch.tensor(PROMPT + text.answer)).features_TD)[:-1]
    chances = logits.log_softmax(-1).gather(1, torch.tensor(PROMPT + text.answer)[1:, None])
    assert found.prompt_perplexity == pytest.approx(exp(-float(chances[:4].mean())), rel=1e-4)
    assert found.answer_perplexity == pytest.approx(exp(-float(chances[4:].mean())), rel=1e-4)


def test_other_answers_are_told_apart(held):
    target = held()
    answer = greedy(target, PROMPT, 10)
    other = [*answer[:4], (answer[4] + 1) % 200, *answer[5:]]
    found = quality(target, [Text(PROMPT, other)], 10)
    assert found.alike == pytest.approx(0.4)
    assert found.solved is None
    assert found.agreement <= 0.9


def test_int8_is_coarser_than_bf16_is_coarser_than_fp32(held):
    exact = held()
    text = Text(PROMPT, greedy(exact, PROMPT, 20))
    logits = {}
    for kind in ("none", "bf16", "int8"):
        logits[kind] = held(quantize=kind).model.prefill(torch.tensor(PROMPT + text.answer)).logits_TV
    near, far = ((logits[kind] - logits["none"]).norm() for kind in ("bf16", "int8"))
    assert 0 < near < far


def test_answers_to_questions_with_a_reference_are_marked(held, monkeypatch):
    target = held()
    monkeypatch.setattr(target.tokenizer, "decode", lambda ids, **_: f"so it is {ids[0]}", raising=False)
    answers = [greedy(target, prompt, 5) for prompt in (PROMPT, PROMPT[1:])]
    texts = [Text(PROMPT, answers[0], str(answers[0][0])), Text(PROMPT[1:], answers[1], "-1")]
    assert quality(target, texts, 5).solved == 1


def test_the_command_prints_a_table(chat_target, tmp_path, capsys):
    (tmp_path / "questions.jsonl").write_text('{"prompt": "in the end"}\n{"prompt": "the"}\n')
    main([f"target.model={chat_target}", f"dataset={tmp_path / 'questions.jsonl'}", "max_new_tokens=8"])
    table = capsys.readouterr().err
    assert all(word in table for word in ("fp32", "bf16", "int8", "int4", "100.0 %", "2 questions"))
