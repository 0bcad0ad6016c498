"""Whatever the model's own generation configuration asks for, the text is plain greedy decoding."""

import pytest
import torch
from transformers import GenerationConfig

from falcon_cli.target.reference.plain import generate, penalties, tell_penalties

PROMPT = [3, 14, 15, 9, 2, 6]


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(40))},
        {"min_new_tokens": 20, "eos_token_id": 5},
        {"do_sample": True, "temperature": 9.0},
        {"num_beams": 3},
        {"max_new_tokens": 3},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_nothing_of_the_models_own_configuration_changes_the_text(tiny_model, greedy, asked):
    model = tiny_model()
    expected = greedy(model, PROMPT, 20)
    model.generation_config = own = GenerationConfig(**asked)
    assert generate(model, PROMPT, frozenset(), 20)[0, len(PROMPT) :].tolist() == expected
    assert model.generation_config is own


def test_a_penalty_of_the_configuration_would_change_it(tiny_model, greedy):
    """The test before would not see a configuration that changes nothing."""
    model = tiny_model()
    model.generation_config.repetition_penalty = 1.3
    told = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False)
    assert told[0, len(PROMPT) :].tolist() != greedy(model, PROMPT, 20)


def test_the_configuration_is_put_back_when_generating_fails(tiny_model):
    model = tiny_model()
    own = model.generation_config
    with pytest.raises(RuntimeError):
        generate(model, PROMPT, frozenset(), 4, streamer=Broken())
    assert model.generation_config is own


class Broken:
    def put(self, value):
        raise RuntimeError


def test_it_ends_at_a_stop_token(tiny_model, greedy):
    model = tiny_model()
    free = greedy(model, PROMPT, 20)
    told = generate(model, PROMPT, frozenset({free[6]}), 20)
    assert told[0, len(PROMPT) :].tolist() == free[: free.index(free[6]) + 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}, []),
        ({"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "num_beams": 1}, []),
        ({"repetition_penalty": 1.3}, ["repetition_penalty 1.3"]),
        ({"no_repeat_ngram_size": 3, "min_new_tokens": 2}, ["no_repeat_ngram_size 3", "min_new_tokens 2"]),
        ({"bad_words_ids": [[4], [5, 6]]}, ["bad_words_ids"]),
        ({"suppress_tokens": [7], "forced_eos_token_id": 2}, ["suppress_tokens", "forced_eos_token_id 2"]),
        ({"sequence_bias": [[[3], -9.0]]}, ["sequence_bias"]),
    ],
)
def test_penalties_and_bans_are_known_by_name(settings, expected):
    assert penalties(GenerationConfig(**settings)) == expected


def test_they_are_told_once(capsys):
    for _ in range(2):
        tell_penalties("somebody/chat", GenerationConfig(repetition_penalty=1.3))
        tell_penalties("somebody/else", GenerationConfig())
    expected = "somebody/chat asks for repetition_penalty 1.3: falcon decodes plainly, without\n"
    assert capsys.readouterr().err == expected
