"""Questions, and the JSON lines they are read from.

A line is one of

    {"question_id": 81, "category": "writing", "turns": ["first turn", "second turn"]}      MT-Bench, Spec-Bench
    {"prompt": "the one turn"}
    {"messages": [{"role": "user", "content": "..."}, ...]}                                 the last one is the turn
    {"conversations": [{"from": "human", "value": "..."}, ...]}                             likewise

and may carry any other fields; the messages may have any of the forms of `messages.py`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from falcon_cli.data.messages import Message, messages_of
from falcon_cli.errors import FalconError

T = TypeVar("T")

Record = dict[str, Any]
"""One JSON object as it was read."""


@dataclass(frozen=True)
class Question:
    """What the user says to the model, turn by turn; the model's answers go in between."""

    id: str
    turns: tuple[str, ...]
    category: str = ""
    context: tuple[Message, ...] = ()
    """Messages before the first turn."""
    reference: str = ""
    """The answer to compare with, where the data set has one."""
    last: Message | None = None
    """The message that asks, where it is a tool's and not the user's."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas of the functions that the assistant may call."""

    def messages(self, turn: int = 0, earlier: Iterable[str] = ()) -> list[Message]:
        """The dialogue up to a turn, with earlier turns' answers."""
        messages = list(self.context)
        for said, answered in zip(self.turns, earlier, strict=False):
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
        return [*messages, self.last or {"role": "user", "content": self.turns[turn]}]


QuestionOf = Callable[[Record, int], Question]
"""Makes a question of a record and its 1-based number; raises ValueError saying what is wrong with the record."""


def question_of(record: Record, number: int) -> Question:
    """Make a question of a record in one of this module's forms.

    Raises:
        ValueError: none of the forms fits, or a text is empty or no text.
    """
    identity, category, reference = _id(record, number), _label(record, "category"), _label(record, "reference")
    if "turns" in record:
        return Question(identity, _turns(record["turns"]), category, reference=reference)
    if "prompt" in record:
        return Question(identity, (text_of(record, "prompt"),), category, reference=reference)
    dialogue = messages_of(record)
    if dialogue is None:
        raise ValueError('it has none of "turns", "prompt", "messages" and "conversations"')
    *context, last = _checked(dialogue.whole().messages)
    final = last if last["role"] == "tool" else None
    return Question(identity, (last["content"],), category, tuple(context), reference, final, dialogue.tools)


def parse_line(line: str | bytes, number: int, source: str, build: QuestionOf = question_of) -> tuple[Question, Record]:
    """Read one JSON line into its question and the whole record it came from; see `parse`."""
    return parse(line, number, source, build)


def parse(line: str | bytes, number: int, source: str, build: Callable[[Record, int], T]) -> tuple[T, Record]:
    """Read one JSON line into what is made of it, and the whole record it came from.

    Args:
        line: the line; bytes are UTF-8.
        number: its 1-based number, for messages and as the id of a question without one.
        source: the file's name, for messages.
        build: makes it of the record and its number; raises ValueError saying what is wrong with the record.

    Raises:
        FalconError: naming the file, the line and what is wrong with it.
    """
    try:
        record = json.loads(line, parse_constant=_finite, parse_float=_finite)
        if not isinstance(record, dict):
            raise ValueError("it is not a JSON object")
        return build(record, number), record
    except json.JSONDecodeError as error:
        reason = f"not JSON: {error.msg} at column {error.colno}"
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise FalconError(f"{source}:{number}: {reason}")


def read_jsonl(path: Path, keep_going: bool = False, build: QuestionOf = question_of) -> tuple[list[Question], int]:
    """Read all questions of a JSON lines file (`.gz` too); blank lines do not count.

    Returns:
        The questions, and how many malformed lines `keep_going` skipped.

    Raises:
        FalconError: the file cannot be read, or a line is malformed and `keep_going` is off.
    """
    questions, skipped = [], 0
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        try:
            questions.append(parse_line(line, number, str(path), build)[0])
        except FalconError:
            if not keep_going:
                raise
            skipped += 1
    return questions, skipped


def text_of(record: Record, key: str) -> str:
    """Return the text under `key`.

    Raises:
        ValueError: it is missing, empty, or no text.
    """
    if key not in record:
        raise ValueError(f'it has no "{key}"')
    return _text(record[key], f'"{key}"')


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file (`.gz` too).

    Raises:
        FalconError: it cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from stream
    except (OSError, EOFError, zlib.error) as error:
        raise FalconError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _finite(number: str) -> float:
    value = float(number)
    if not isfinite(value):
        raise ValueError(f"{number} is no finite number, and JSON has no other")
    return value


def _turns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('"turns" must be a list of texts')
    return tuple(_text(turn, f'turn {number} of "turns"') for number, turn in enumerate(value, start=1))


def _checked(messages: Sequence[Message]) -> Sequence[Message]:
    """Messages that end with a question, and of which each has words."""
    if not messages:
        raise ValueError("it has no message")
    for place, message in enumerate(messages, start=1):
        if not message.get("tool_calls"):
            _text(message["content"], f"the content of message {place}")
    role = messages[-1]["role"]
    if role not in ("user", "tool"):
        raise ValueError(f"the last message must be the user's or a tool's, not the {role}'s")
    return messages


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} holds half a character (a lone surrogate)")  # no tokenizer takes it
    return value


def _id(record: Record, number: int) -> str:
    given = next((record[key] for key in ("question_id", "id", "task_id") if key in record), number)
    return str(given if isinstance(given, (str, int)) else number)


def _label(record: Record, key: str) -> str:
    """Return a field that only describes the question: a text, or a list of texts as MT-Bench has it."""
    value = record.get(key)
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return value if isinstance(value, str) else ""
