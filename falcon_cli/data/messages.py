"""The messages of a dialogue, in the forms in which people keep them.

    {"role": "user", "content": "..."}                       OpenAI's, and every chat template's
    {"from": "human", "value": "..."}                        ShareGPT's
    {"role": "user", "content": [{"type": "text", "text": "..."}]}
    {"role": "assistant", "tool_calls": [{"function": {"name": ..., "arguments": ...}}]}, {"role": "tool", ...}
    {"from": "function_call", "value": '{"name": ..., "arguments": ...}'}, {"from": "observation", ...}

All become the first form, with the assistant's calls as `tool_calls` whose arguments are an object: so chat templates
expect them. A role that is not listed here keeps its name, for a template may know it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""`{"role": name, "content": text}`; an assistant's may have `tool_calls`, a tool's `tool_call_id` and `name`."""

_NAMES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "assistant"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response"), "tool"),
}
"""What speakers are called → the role."""
_CALLS = ("function_call", "tool_call", "tool_calls")
"""Speakers whose words are the assistant's calls as JSON."""
_TEXTS = ("text", "input_text", "output_text")
"""Types of a part that is text."""
_KEPT = ("name", "tool_call_id", "reasoning_content")
"""Further fields that chat templates read."""


class NoTextError(ValueError):
    """A message that is well formed and holds something else than text, such as an image."""


@dataclass(frozen=True)
class Messages:
    """A dialogue as far as it is text."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas of the functions that the assistant may call."""
    ended: str | None = None
    """Why the dialogue's other messages are missing: `a part of the type image_url`."""

    def whole(self) -> Messages:
        """The same.

        Raises:
            ValueError: Messages are missing.
        """
        if self.ended is not None:
            raise ValueError(f"only text is read, and message {len(self.messages) + 1} is {self.ended}")
        return self


def messages_of(record: Mapping[str, Any]) -> Messages | None:
    """The dialogue of a record's `messages` or `conversations`, with its `system` and `tools`; None without either.

    Raises:
        ValueError: Saying what is wrong with the record.
    """
    field = next((field for field in ("messages", "conversations") if record.get(field) is not None), None)
    if field is None:
        return None
    entries = record[field]
    if not isinstance(entries, (list, tuple)):
        raise ValueError(f'"{field}" must be a list of messages')
    messages: list[Message] = []
    system = record.get("system")
    if isinstance(system, str) and system.strip():
        messages.append({"role": "system", "content": system})
    tools = _tools(record.get("tools") or record.get("functions"))
    if tools is None:
        return Messages((), ended="tools that are no list of functions")
    ended = None
    for place, entry in enumerate(entries, start=1):
        try:
            messages.append(_message(entry, f'message {place} of "{field}"'))
        except NoTextError as reason:
            ended = str(reason)
            break
    _number_calls(messages)
    return Messages(tuple(messages), tools, ended)


def _message(entry: object, name: str) -> Message:
    """One message.

    Raises:
        NoTextError: It holds something else than text; the error's text says what.
        ValueError: It has no speaker or no words.
    """
    fields = {key: value for key, value in entry.items() if value is not None} if isinstance(entry, dict) else {}
    speaker = fields.get("role", fields.get("from"))
    words = fields.get("content", fields.get("value"))
    calls = fields.get("tool_calls", fields.get("function_call"))
    known_words = isinstance(entry, dict) and ("content" in entry or "value" in entry)
    if not isinstance(speaker, str) or not (known_words or calls):
        raise ValueError(f'{name} must have "role" and "content", or "from" and "value"')
    role = _NAMES.get(speaker.lower(), speaker)
    if words is None and not calls:
        raise NoTextError("a message without words")
    message: Message = {"role": role, "content": "" if words is None else _text(words)}
    message |= {key: fields[key] for key in _KEPT if isinstance(fields.get(key), str)}
    if speaker.lower() in _CALLS:
        found = _calls(_parsed(message["content"]))
        return {"role": "assistant", "content": "", "tool_calls": found} if found else message
    if calls and role == "assistant":
        message["tool_calls"] = _calls(calls)
        if not message["tool_calls"]:
            raise ValueError(f'the calls of {name} must each have a "name" and "arguments"')
    return message


def _text(words: object) -> str:
    """Words, or the parts of a message, as one text."""
    if isinstance(words, str):
        return words
    if not isinstance(words, (list, tuple)):
        raise NoTextError(f"a content that is no text ({type(words).__name__})")
    return "\n".join(map(_part, words))


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in _TEXTS or not isinstance(text, str):
        raise NoTextError(f"a part of the type {kind}")
    return text


def _calls(value: object) -> list[dict[str, Any]]:
    """Calls of functions in the form that chat templates read; empty where one is no call."""
    calls = []
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        fields = entry if isinstance(entry, dict) else {}
        function = fields.get("function", fields)
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            return []
        arguments = function.get("arguments", function.get("parameters", {}))
        arguments = _parsed(arguments) if isinstance(arguments, str) else arguments
        call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
        calls.append(call | ({"id": fields["id"]} if isinstance(fields.get("id"), str) else {}))
    return calls


def _parsed(text: str) -> Any:
    """What a text says as JSON; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _number_calls(messages: list[Message]) -> None:
    """Give calls without an id one of nine letters, as Mistral's template demands, and their results the same."""
    waiting: list[str] = []
    number = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            call.setdefault("id", f"call{number:05d}")
            waiting.append(call["id"])
            number += 1
        if message["role"] == "tool" and waiting:
            answered = message.setdefault("tool_call_id", waiting[0])
            waiting = [name for name in waiting if name != answered]


def _tools(value: object) -> tuple[dict[str, Any], ...] | None:
    """Schemas of functions in the form that chat templates read; None where they are none.

    Args:
        value: a list of them, or the same as JSON text; nothing, and blank text, are an empty list.
    """
    tools = _parsed(value.strip() or "[]") if isinstance(value, str) else value or []
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, dict) for tool in tools):
        return None
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)
