"""What a bench run leaves behind: one JSON line per question, safe against a kill in mid-write.

A line holds every method, turn and repeat of its question, so a question is either wholly in the file or not at all
and the methods stay paired. It begins with the prompts, which most methods share; the records name theirs by its place:

    {"prompts": [[1, 5, 9], ...], "records": [{"method": "ar", "prompt": 0, ...}, ...]}
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
    prompt: tuple[int, ...]
    """Token ids that the method was asked: equal for all methods, or they were not asked the same."""
    completion: Completion
    text: str
    peak_bytes: int | None = None
    """Most memory held while answering; None where no system tells."""


def to_json(records: Sequence[TurnRecord]) -> dict[str, Any]:
    """Give a question's records as JSON types; a cycle is [emitted, nodes, draft s, verify s, whole s]."""
    prompts = list(dict.fromkeys(record.prompt for record in records))
    places = {prompt: place for place, prompt in enumerate(prompts)}
    entries = [_to_entry(record, places[record.prompt]) for record in records]
    return {"prompts": [list(prompt) for prompt in prompts], "records": entries}


def from_json(line: dict[str, Any]) -> list[TurnRecord]:
    """Undo `to_json`; KeyError, TypeError, IndexError or ValueError if `line` is not one of its."""
    prompts = [tuple(map(int, prompt)) for prompt in line["prompts"]]
    return [_from_entry(entry, prompts[entry["prompt"]]) for entry in line["records"]]


def _to_entry(record: TurnRecord, prompt: int) -> dict[str, Any]:
    completion = record.completion
    return {
        "question_id": record.question_id,
        "category": record.category,
        "turn": record.turn,
        "method": record.method,
        "repeat": record.repeat,
        "prompt": prompt,
        "text": record.text,
        "peak_bytes": record.peak_bytes,
        "finish": completion.finish,
        "ids": list(completion.ids),
        "prefill_seconds": round(completion.prefill_seconds, _MICROSECOND),
        "cycles": [_pack(cycle) for cycle in completion.cycles],
    }


def _from_entry(entry: dict[str, Any], prompt: tuple[int, ...]) -> TurnRecord:
    completion = Completion(
        prompt_tokens=len(prompt),
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
        prompt=prompt,
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
        line = json.dumps(to_json(records), separators=(",", ":"))
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
            return from_json(json.loads(line))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FalconError(
                f"{self.path}, line {number}: not a question's records, or an earlier version's; delete that line or "
                "start a new --out folder"
            ) from error
