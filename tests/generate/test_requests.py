import io
import json
import sys

import pytest

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.prompts import Question
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.generate.requests import Request, lines, prompt_ids, requests_from, single, with_first
from falcon_cli.recipe.schema import GenerateRecipe


@pytest.fixture
def piped(monkeypatch):
    """Put bytes on stdin; None makes it a terminal."""

    def put(content):
        stream = io.TextIOWrapper(io.BytesIO(content or b""))
        stream.isatty = lambda: content is None
        monkeypatch.setattr(sys, "stdin", stream)

    return put


def test_a_prompt_given_wins_over_stdin(piped):
    piped(b"from stdin")
    assert list(requests_from("given", jsonl=False, keep_going=False)) == [single("given")]
    assert list(requests_from(None, jsonl=False, keep_going=False)) == [single("from stdin")]


def test_nothing_given_on_a_terminal_is_wrong_usage(piped):
    piped(None)
    for jsonl in (False, True):
        with pytest.raises(UsageError, match="give a prompt, or pipe one in"):
            requests_from(None, jsonl, keep_going=False)
    assert list(requests_from("given", jsonl=False, keep_going=False)) == [single("given")]


@pytest.mark.parametrize("prompt", ["", " \n\t"])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(FalconError, match="the prompt is empty"):
        single(prompt)


def test_lines_come_as_they_are_read():
    def endless():
        yield b'{"prompt": "one", "id": "a", "more": [1]}\n'
        raise AssertionError("read too far")

    first = next(lines(endless(), "stdin", keep_going=False))
    assert first == Request(Question("a", ("one",)), {"prompt": "one", "id": "a", "more": [1]}, "stdin:1")


def test_messages_keep_their_context():
    line = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}'  # noqa: E501
    (request,) = lines([line], "stdin", keep_going=False)
    assert request.question.turns == ("c",)
    assert [message["content"] for message in request.question.context] == ["a", "b"]


def test_several_questions_in_a_line_are_refused():
    with pytest.raises(FalconError, match='asked:1: "turns" asks several questions'):
        list(lines([b'{"turns": ["a", "b"]}'], "asked", keep_going=False))


def test_a_file_is_opened_at_once(tmp_path):
    with pytest.raises(FalconError, match=r"cannot read .*nowhere: No such file"):
        requests_from(str(tmp_path / "nowhere"), jsonl=True, keep_going=False)
    path = tmp_path / "asked.jsonl"
    path.write_text('\n{"prompt": "one"}\n\n{"prompt": "two"}')
    assert [request.question.turns for request in requests_from(str(path), True, False)] == [("one",), ("two",)]


def test_prompts_are_rendered_as_the_recipe_says(byte_tokenizer):
    def text(request, **recipe):
        return byte_tokenizer.decode(prompt_ids(request, GenerateRecipe(**recipe), ChatTemplate(byte_tokenizer)))

    plain = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text(single("hi")) == plain
    assert text(single("hi"), raw=True) == "hi"
    assert text(single("hi"), system="Be brief.") == "<|im_start|>system\nBe brief.<|im_end|>\n" + plain
    own = Request(Question("1", ("hi",), context=({"role": "system", "content": "Own."},)))
    assert text(own, system="Be brief.").startswith("<|im_start|>system\nOwn.<|im_end|>")
    with pytest.raises(FalconError, match='give "prompt" instead of "messages"'):
        text(own, raw=True)


def test_messages_in_any_of_their_forms_are_the_same_prompt(byte_tokenizer):
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]
    system = {"role": "system", "content": "Be brief."}
    asked = [
        {"messages": [system, {"role": "user", "content": "Hi\nthere"}]},
        {"messages": [system, {"role": "user", "content": parts}]},
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi\nthere"}]},
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi\nthere"}]},
        {"messages": [{**system, "role": "developer"}, {"role": "user", "content": parts}]},
    ]
    requests = lines([json.dumps(record).encode() for record in asked], "stdin", keep_going=False)
    chat = ChatTemplate(byte_tokenizer)
    prompts = [prompt_ids(request, GenerateRecipe(), chat) for request in requests]
    assert len(prompts) == len(asked)
    assert all(prompt == prompts[0] for prompt in prompts)
    with_option = prompt_ids(single("Hi\nthere"), GenerateRecipe(system="Be brief."), chat)
    assert with_option == prompts[0]


def test_the_first_request_is_seen_ahead_of_its_turn():
    asked = [single("one"), single("two")]
    first, every = with_first(iter(asked))
    assert (first, list(every)) == (asked[0], asked)
    assert with_first(iter([]))[0] is None
