"""Turns become token ids: answers and calls, the end of turn, and the places where a dialogue ends early."""

import json
from collections import Counter

import pytest

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.distill.corpus.tally import Tally

ASKED = "Name three colours, please."


def talk(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def test_answers_that_the_template_renders_differently_are_taken_from_it(reader, byte_tokenizer):
    """LLaMA-2's template puts a space before the end of turn."""
    messages = talk(ASKED, "red, green", "One more?", "blue")
    (sample,) = reader([messages], template="llama-2").texts()
    second = ChatTemplate(byte_tokenizer, "llama-2").prompt(messages[:3])
    assert list(sample.tokens[: len(second)]) == second
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert byte_tokenizer.decode(said) == " red, green <|im_end|> blue <|im_end|>"


CALLING = [
    {"from": "human", "value": ASKED},
    {"from": "function_call", "value": '{"name": "colours", "arguments": {"count": 3}}'},
    {"from": "observation", "value": "red, green, blue"},
    {"from": "gpt", "value": "These three."},
]
"""An answer that nobody understands without what the function returned."""


def test_an_answer_is_not_taken_without_its_evidence(reader):
    """ChatML's template has no words for calls."""
    corpus = reader([{"conversations": CALLING}])
    assert list(corpus.texts()) == list(corpus.prompts()) == []
    reason = "at a function call, which the template does not know"
    assert corpus.tally == Tally(2, 0, Counter({reason: 2}))


def test_calls_are_learned_where_the_template_knows_them(reader, speaking):
    tokenizer, tools = speaking("tools"), [{"name": "colours", "parameters": {}}]
    corpus = reader([{"conversations": CALLING, "tools": json.dumps(tools)}], tokenizer=tokenizer)
    (sample,) = corpus.texts()
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert tokenizer.decode(said) == (
        '<call>{"name": "colours", "arguments": {"count": 3}}</call><|im_end|>These three.<|im_end|>'
    )
    assert tokenizer.decode(sample.tokens).startswith('<|im_start|>system\nTools: [{"type": "function"')
    assert "<result>red, green, blue</result>" in tokenizer.decode(sample.tokens)
    assert corpus.tally == Tally(1, 1)
    assert len(list(corpus.prompts())) == 2  # a call is an answer too


def test_tools_that_the_template_does_not_know_are_counted(reader):
    corpus = reader([{"messages": talk(ASKED, "red"), "tools": [{"name": "colours"}]}])
    assert len(list(corpus.texts())) == 1
    assert corpus.tally.cut == Counter({"without its tools, which the template does not know": 1})


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        ([{"role": "critic", "content": "Hm."}], "at the role critic, which the template does not know"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "at a part of the type image_url"),
        ([{"role": "user", "content": "More?"}, {"role": "assistant", "content": None}], "at a message without words"),
        ([{"role": "assistant", "content": "green"}], "at a turn without words"),
        (
            [{"role": "user", "content": "Bye."}, {"role": "tool", "content": "x"}],
            "at the role tool, which the template does not know",
        ),
        (talk("x", "More?")[1:], "at a turn without words"),
    ],
)
def test_a_text_ends_where_a_message_cannot_be_taken(reader, byte_tokenizer, further, reason):
    corpus = reader([[*talk(ASKED, "red"), *further, *talk("Again?", "blue")]])
    (sample,) = corpus.texts()
    assert byte_tokenizer.decode(sample.tokens).endswith("red<|im_end|>")
    assert corpus.tally == Tally(1, 1, cut=Counter({reason: 1}))


def test_the_assistant_s_words_before_the_first_question_are_counted(reader):
    corpus = reader([talk("x", "Hello there", ASKED, "red")[1:]])
    assert len(list(corpus.texts())) == 1
    assert corpus.tally == Tally(1, 1, cut=Counter({"before its first question": 1}))


@pytest.mark.parametrize("parse_special", [False, True])
@pytest.mark.parametrize("speaker", [0, 1])
def test_control_tokens_in_words_end_no_turn_unless_asked(reader, byte_tokenizer, speaker, parse_special):
    messages = talk(ASKED, "red", "More?", "green")
    messages[speaker]["content"] += "<|im_end|>!"
    (sample,) = reader([messages], parse_special=parse_special).texts()
    ends = sample.tokens.count(byte_tokenizer.eos_token_id)
    assert ends == 4 + parse_special
    assert "<|im_end|>!" in byte_tokenizer.decode(sample.tokens)
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    first = "red<|im_end|>" if parse_special or speaker == 0 else "red<|im_end|>!<|im_end|>"
    assert byte_tokenizer.decode(said) == first + "green<|im_end|>"


@pytest.mark.parametrize("ending", ["<turn>", " <turn>\n"])
def test_the_end_of_a_turn_is_what_the_template_writes(reader, speaking, ending):
    """The tokenizer's end of text is another token, as with Llama 3."""
    tokenizer = speaking("chatml", "<turn>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + ending + "{% endfor %}"
    corpus = reader([talk(ASKED, "red")], tokenizer=tokenizer)
    corpus.stop_ids |= {tokenizer.convert_tokens_to_ids("<turn>")}
    (sample,) = corpus.texts()
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert tokenizer.decode(said).endswith("red" + ending.rstrip())
    assert tokenizer.eos_token_id not in sample.tokens


def test_an_answer_that_the_template_rewrites_ends_as_the_template_ends_it(reader, speaking):
    """What was asked is no beginning of the dialogue with its answer: the answer's own words are taken."""
    tokenizer = speaking("chatml", "<turn>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}<turn>{% endfor %}{% if add_generation_prompt %}?{% else %}!{% endif %}"
    ).replace("{% for", "{{ messages | length }}{% for")
    corpus = reader([talk(ASKED, "red")], tokenizer=tokenizer)
    corpus.stop_ids |= {tokenizer.convert_tokens_to_ids("<turn>")}
    (sample,) = corpus.texts()
    said = [token for token, answer in zip(sample.tokens, sample.answer, strict=True) if answer]
    assert tokenizer.decode(said) == "red<turn>"
