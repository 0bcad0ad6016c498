"""Messages in the forms that people keep them in become those that chat templates read."""

import json

import pytest

from falcon_cli.data.messages import Messages, messages_of

USER, ASSISTANT = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}, "id": "call00000"}


def read(*messages, field="messages", **others):
    return messages_of({field: list(messages), **others})


@pytest.mark.parametrize("field", ["messages", "conversations"])
@pytest.mark.parametrize(
    "messages",
    [
        [USER, ASSISTANT],
        [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}],
        [{"role": "human", "value": "hello"}, {"from": "ChatGPT", "content": "hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}, {"role": "model", "content": ["hi"]}],
        [{**USER, "name": None, "tool_calls": None}, {**ASSISTANT, "weight": 1}],  # as a Parquet row has them
    ],
)
def test_either_field_and_either_pair_of_names(field, messages):
    assert read(*messages, field=field) == Messages((USER, ASSISTANT))


def test_text_parts_are_lines():
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}, "three"]
    assert read({"role": "user", "content": parts}).messages[0]["content"] == "one\ntwo\nthree"


@pytest.mark.parametrize(
    "calling",
    [
        [{"role": "assistant", "content": None, "tool_calls": [{**CALL, "function": {**CALL["function"]}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}],
        [{"role": "assistant", "content": "", "function_call": {"name": "add", "arguments": '{"a": 1}'}}],
        [{"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}],
        [{"from": "tool_call", "value": '[{"name": "add", "parameters": {"a": 1}}]'}],
    ],
)
@pytest.mark.parametrize("speaker", ["tool", "observation", "function", "function_response"])
def test_calls_and_their_results(calling, speaker):
    caller, result = read(*calling, {"role": speaker, "content": "3"}).messages
    assert caller == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert result == {"role": "tool", "content": "3", "tool_call_id": "call00000"}


def test_results_belong_to_the_calls_in_their_order():
    call = {"function": {"name": "f", "arguments": {}}}
    result = {"role": "tool", "content": "x"}
    calls = {"role": "assistant", "tool_calls": [call, {**call, "id": "mine"}, call]}
    messages = read(calls, {**result, "tool_call_id": "mine"}, result, result, result).messages
    assert [made["id"] for made in messages[0]["tool_calls"]] == ["call00000", "mine", "call00002"]
    assert [message.get("tool_call_id") for message in messages[1:]] == ["mine", "call00000", "call00002", None]


def test_words_that_are_no_call_stay_under_their_name():
    message = {"role": "function_call", "content": "<functioncall> add"}
    assert read(message).messages == (message,)


def test_further_roles_keep_their_names():
    assert [read({"role": role, "content": "x"}).messages[0]["role"] for role in ("developer", "critic")] == [
        "developer",
        "critic",
    ]


@pytest.mark.parametrize("tools", [[{"name": "add"}], [{"type": "function", "function": {"name": "add"}}]])
@pytest.mark.parametrize("form", [list, json.dumps])
def test_a_system_text_and_tools_may_stand_beside_the_messages(tools, form):
    dialogue = read(USER, ASSISTANT, system="Be brief.", tools=form(tools))
    assert dialogue.messages[0] == {"role": "system", "content": "Be brief."}
    assert dialogue.tools == ({"type": "function", "function": {"name": "add"}},)
    assert read(USER, system=" ", tools="").messages == (USER,)


@pytest.mark.parametrize(
    ("message", "ended"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "a part of the type image_url"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, 5]}, "a part of the type int"),
        ({"role": "user", "content": 5}, "a content that is no text (int)"),
        ({"role": "assistant", "content": None}, "a message without words"),
    ],
)
def test_what_is_no_text_ends_the_dialogue(message, ended):
    dialogue = read(USER, message, ASSISTANT)
    assert dialogue == Messages((USER,), (), ended)
    with pytest.raises(ValueError, match="message 2 is"):
        dialogue.whole()


def test_tools_that_are_none_are_told():
    assert read(USER, tools="add(a, b)") == Messages((), (), "tools that are no list of functions")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", '"messages" must be a list'),
        ([5], 'message 1 of "messages" must have "role" and "content", or "from" and "value"'),
        ([{"role": "user"}], "message 1"),
        ([{"content": "x"}], "message 1"),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {}}]}], 'calls of message 2 of "messages"'),
    ],
)
def test_messages_that_are_none_are_an_error(messages, reason):
    with pytest.raises(ValueError, match=reason):
        messages_of({"messages": messages})


def test_a_record_without_messages():
    assert messages_of({"prompt": "x", "messages": None}) is None
