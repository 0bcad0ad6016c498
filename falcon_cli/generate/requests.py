"""What is to be answered: one prompt, or one JSON object a line."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from falcon_cli.console import warn
from falcon_cli.data.chat import ChatTemplate, render_raw
from falcon_cli.data.prompts import Question, parse_line
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import GenerateRecipe


@dataclass(frozen=True)
class Request:
    """One prompt, with the fields that came along and go out again."""

    question: Question
    fields: dict[str, Any] = field(default_factory=dict)
    place: str | None = None
    """File and line; None where it is the only one."""


def requests_from(prompt: str | None, jsonl: bool, keep_going: bool) -> Iterator[Request]:
    """Requests of the command line: the prompt given, or what is piped in; with `jsonl`, lines of a file or of stdin.

    Raises:
        FalconError: Nothing is given, or it cannot be read.
    """
    if prompt is None and sys.stdin.isatty():
        raise UsageError('give a prompt, or pipe one in: echo "Why is the sky blue?" | falcon generate')
    if not jsonl:
        return iter([single(read_stdin() if prompt is None else prompt)])
    if prompt is None:
        return lines(sys.stdin.buffer, "stdin", keep_going)
    return lines(_file_lines(Path(prompt)), prompt, keep_going)


def with_first(requests: Iterator[Request]) -> tuple[Request | None, Iterator[Request]]:
    """The first request, ahead of its turn, and all of them; None where there are none.

    Raises:
        FalconError: The first one is malformed.
    """
    first = next(requests, None)
    return first, requests if first is None else chain([first], requests)


def read_stdin() -> str:
    """All of stdin as text.

    Raises:
        FalconError: It is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise FalconError("stdin is not UTF-8 text; convert it first") from error


def single(prompt: str) -> Request:
    """A request of one text.

    Raises:
        FalconError: The text is empty.
    """
    if not prompt.strip():
        raise FalconError("the prompt is empty; give some text, or pipe it in")
    return Request(Question("1", (prompt,)))


def lines(source: Iterable[bytes], name: str, keep_going: bool) -> Iterator[Request]:
    """A request for each line of JSON, as the lines come; blank lines do not count.

    Raises:
        FalconError: A malformed line, named by its number, unless `keep_going` skips it (skips are counted at the end).
    """
    skipped = 0
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            question, fields = parse_line(line, number, name)
            if len(question.turns) > 1:
                raise FalconError(f'{name}:{number}: "turns" asks several questions; give one "prompt" or "messages"')
        except FalconError as error:
            if not keep_going:
                raise
            skipped += 1
            warn(f"skipped: {error}")
            continue
        yield Request(question, fields, f"{name}:{number}")
    if skipped:
        warn(f"{name}: {skipped} malformed lines skipped")


def _file_lines(path: Path) -> Iterable[bytes]:
    """Open at once, so that a wrong name is told before a target is loaded."""
    try:
        return path.open("rb")
    except OSError as error:
        raise FalconError(f"cannot read {path}: {error.strerror}; --jsonl takes a file of JSON lines") from error


def prompt_ids(request: Request, recipe: GenerateRecipe, chat: ChatTemplate) -> list[int]:
    """Token ids of a request's prompt.

    Raises:
        FalconError: The chat template does not take it.
    """
    question = request.question
    if recipe.raw:
        if question.context or question.last is not None:
            raise FalconError('raw takes plain text: give "prompt" instead of "messages"')
        return render_raw(chat.tokenizer, question.turns[0])
    messages = question.messages()
    if recipe.system is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": recipe.system})
    return chat.prompt(messages, question.tools)
