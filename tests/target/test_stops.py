from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from falcon_cli.target.stops import end_of_turn, stop_tokens

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif %}{% endfor %}"
)


def tokenizer_of(template, eos="<|endoftext|>"):
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<|im_end|>extra"]
    words.add_tokens([AddedToken(token, special=True) for token in special])
    words.add_tokens([AddedToken("<think>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=eos, chat_template=template)


def model_of(eos):
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "<|im_end|>"),
        (VICUNA, "</s>"),  # behind a space
        (CHATML.replace("<|im_end|>", "<|im_end|>extra"), "<|im_end|>extra"),  # not the shorter token
        (CHATML.replace("<|im_end|>", "<think>"), None),  # a word of the answer, not a control token
        (CHATML.replace("<|im_end|>", " end of turn <|im_end|>"), None),  # words come first
        ("{% for m in messages %}{{ m.role }}{% endfor %}", None),  # what the assistant says is nowhere
        ("{{ raise_exception('only system messages') }}", None),
        (None, None),
    ],
)
def test_the_end_of_a_turn_is_what_the_chat_template_writes_behind_an_answer(template, expected):
    tokenizer = tokenizer_of(template)
    assert end_of_turn(tokenizer) == (None if expected is None else tokenizer.convert_tokens_to_ids(expected))


@pytest.mark.parametrize(("eos", "expected"), [(None, {2, 4}), (7, {2, 4, 7}), ([7, 8], {2, 4, 7, 8}), (4, {2, 4})])
def test_a_target_stops_at_every_end_that_anything_names(eos, expected):
    """The tokenizer's end of text is 2, the template ends turns with 4."""
    assert stop_tokens(model_of(eos), tokenizer_of(CHATML)) == expected


def test_without_any_end_there_is_none():
    tokenizer = tokenizer_of(None)
    tokenizer.eos_token = None
    assert stop_tokens(model_of(None), tokenizer) == frozenset()
