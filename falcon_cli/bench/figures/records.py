"""What a bench run leaves behind: one JSON line per question, safe against a kill in mid-write.

A line holds every method, turn and repeat of its question, so a question is either wholly in the file or not at all
and the methods stay paired.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falcon_cli.decode.stats import Completion, Cycle
from falcon_cli.errors import FalconError
from falcon_cli.sources import append_line, whole_lines

_MICROSECOND = 6


@dataclass(frozen=True)
class TurnRecord:
    """One method's answer to one turn of one question."""

    question_id: str
    category: str
    turn: int
    """Counted from 0."""
    method: str
    repeat: int
    """Counted from 0."""
    prompt_tokens: int
    prompt_sha: str
    """Digest of the prompt's token ids: equal for all methods, or they were not asked the same."""
    completion: Completion
    text: str
    peak_bytes: int | None = None
    """Most memory held while answering; None where no system tells."""


def to_json(record: TurnRecord) -> dict[str, Any]:
    """Give the record as JSON types; a cycle is [emitted, nodes, draft s, verify s, whole s], to the microsecond."""
    completion = record.completion
    return {
        "question_id": record.question_id,
        "category": record.category,
        "turn": record.turn,
        "method": record.method,
        "repeat": record.repeat,
        "prompt_tokens": record.prompt_tokens,
        "prompt_sha": record.prompt_sha,
        "text": record.text,
        "peak_bytes": record.peak_bytes,
        "finish": completion.finish,
        "ids": list(completion.ids),
        "prefill_seconds": round(completion.prefill_seconds, _MICROSECOND),
        "cycles": [_pack(cycle) for cycle in completion.cycles],
    }


def from_json(entry: dict[str, Any]) -> TurnRecord:
    """Undo `to_json`; KeyError, TypeError or ValueError if `entry` is not one of its."""
    completion = Completion(
        prompt_tokens=entry["prompt_tokens"],
        ids=list(entry["ids"]),
        prefill_seconds=entry["prefill_seconds"],
        cycles=[_unpack(*numbers) for numbers in entry["cycles"]],
        finish=entry["finish"],
    )
    return TurnRecord(
        question_id=entry["question_id"],
        category=entry["category"],
        turn=entry["turn"],
        method=entry["method"],
        repeat=entry["repeat"],
        prompt_tokens=entry["prompt_tokens"],
        prompt_sha=entry["prompt_sha"],
        completion=completion,
        text=entry["text"],
        peak_bytes=entry.get("peak_bytes"),
    )


def _pack(cycle: Cycle) -> list[float]:
    seconds = (cycle.draft_seconds, cycle.verify_seconds, cycle.seconds)
    return [cycle.emitted, cycle.nodes, *(round(value, _MICROSECOND) for value in seconds)]


def _unpack(emitted: int, nodes: int, draft: float, verify: float, whole: float) -> Cycle:
    return Cycle(emitted=emitted, nodes=nodes, draft_seconds=draft, verify_seconds=verify, seconds=whole)


@dataclass(frozen=True)
class RecordLog:
    """An append-only file of questions, one JSON line each."""

    path: Path

    def append(self, records: Sequence[TurnRecord]) -> None:
        """Add one question's records as one line and wait until it is on disk.

        Raises:
            FalconError: the file cannot be written (disk full, no permission).
            ValueError: the records are not of exactly one question.
        """
        if len({record.question_id for record in records}) != 1:
            raise ValueError("a line holds the records of exactly one question")
        line = json.dumps([to_json(record) for record in records], separators=(",", ":"))
        try:
            append_line(self.path, line)
        except OSError as error:
            raise FalconError(
                f"cannot write {self.path}: {error.strerror}; the questions before this one are kept, "
                "so put that right (or pick another --out) and run again"
            ) from error

    def read(self) -> list[list[TurnRecord]]:
        """Return the records of each question, in file order; nothing if there is no file yet.

        Raises:
            FalconError: the file cannot be read, or a whole line is not a question's records; names file and line.
        """
        try:
            lines = whole_lines(self.path)
        except OSError as error:
            raise FalconError(f"cannot read {self.path}: {error.strerror}") from error
        return [self._parse(line, number) for number, line in enumerate(lines, start=1)]

    def _parse(self, line: bytes, number: int) -> list[TurnRecord]:
        try:
            return [from_json(entry) for entry in json.loads(line)]
        except (KeyError, TypeError, ValueError) as error:
            raise FalconError(
                f"{self.path}, line {number}: not a question's records; delete that line or start a new --out folder"
            ) from error
