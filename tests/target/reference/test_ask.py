"""The model is asked once for what it says by itself; the same question again is answered from the disk."""

import json

import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.sources import home
from falcon_cli.target.reference import ask as asking
from falcon_cli.target.reference.ask import TOKENS, ask

PROMPT = [3, 14, 15, 9, 2, 6]
NO_STOP = frozenset()


@pytest.fixture
def asked(monkeypatch):
    """Counts how often a model generates."""
    calls = []
    generate = asking.generate
    monkeypatch.setattr(asking, "generate", lambda *words: calls.append(words) or generate(*words))
    return calls


def test_it_is_the_models_greedy_text_with_the_models_own_logits(tiny_model, greedy):
    model = tiny_model()
    reference = ask(model, PROMPT, NO_STOP)
    assert (reference.prompt, reference.ids) == (PROMPT, greedy(model, PROMPT, TOKENS))
    with torch.no_grad():
        logits_LV = model(torch.tensor([PROMPT + reference.ids])).logits[0, len(PROMPT) - 1 : -1]
    for place, (row_V, chosen) in enumerate(zip(logits_LV, reference.ids, strict=True)):
        likeliest = row_V.topk(9).indices.tolist()
        assert reference.gap(place, chosen) == 0
        for token in likeliest:
            assert reference.gap(place, token) == pytest.approx(float(row_V.max() - row_V[token]), abs=1e-5)
        assert reference.gap(place, int(row_V.argmin())) == float("inf")


def test_a_second_time_it_is_read_from_the_disk(tiny_model, asked, capsys):
    first = ask(tiny_model(), PROMPT, NO_STOP)
    assert capsys.readouterr().err == "asking transformers.generate for 32 tokens to compare with (once)\n"
    assert ask(tiny_model(), PROMPT, NO_STOP) == first
    assert (len(asked), capsys.readouterr().err) == (1, "")


@pytest.mark.parametrize(
    "other",
    [
        lambda model: ask(model(seed=1), PROMPT, NO_STOP),
        lambda model: ask(model(dtype=torch.float32), PROMPT, NO_STOP),
        lambda model: ask(model(), PROMPT[:-1], NO_STOP),
        lambda model: ask(model(), PROMPT, frozenset({5})),
        lambda model: ask(model(rms_norm_eps=0.1), PROMPT, NO_STOP),
    ],
    ids=["weights", "dtype", "prompt", "stop", "configuration"],
)
def test_another_question_is_asked_anew(tiny_model, asked, other):
    ask(tiny_model(), PROMPT, NO_STOP)
    other(tiny_model)
    assert len(asked) == 2


@pytest.mark.parametrize("text", ["", "[1]", '{"prompt": [1]}', "{"])
def test_a_damaged_file_is_asked_anew(tiny_model, asked, text):
    first = ask(tiny_model(), PROMPT, NO_STOP)
    (file,) = (home() / "references").glob("*.json")
    file.write_text(text)
    assert ask(tiny_model(), PROMPT, NO_STOP) == first
    assert len(asked) == 2
    assert json.loads(file.read_bytes())["ids"] == first.ids


def test_a_model_with_code_of_its_own_is_asked_every_time(tiny_model, asked, monkeypatch):
    monkeypatch.setattr(type(tiny_model()), "__module__", "transformers_modules.somebody.modeling")
    for _ in range(2):
        ask(tiny_model(), PROMPT, NO_STOP)
    assert len(asked) == 2


@pytest.mark.parametrize(("length", "tokens"), [(16, 0), (17, 0), (15, 1), (6, 10)])
def test_it_is_as_long_as_the_context_allows(tiny_model, length, tokens):
    reference = ask(tiny_model(max_position_embeddings=16), list(range(length)), NO_STOP)
    assert len(reference.ids) == tokens
    assert (reference.reason is None) == (tokens > 0)


def test_a_model_that_cannot_generate_gives_a_reason(tiny_model, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(model, "generate", None)
    reason = ask(model, PROMPT, NO_STOP).reason
    assert reason == "transformers.generate fails ('NoneType' object is not callable)"


def test_scores_that_are_no_numbers_are_an_error(tiny_model):
    model = tiny_model()
    model.model.norm.weight.data[0] = float("inf")
    with pytest.raises(FalconError, match="logits are not finite numbers"):
        ask(model, PROMPT, NO_STOP)
    assert not list((home() / "references").glob("*.json"))
