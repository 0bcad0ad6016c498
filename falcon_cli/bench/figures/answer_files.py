"""Answer files in Spec-Bench's JSONL format, from any of these: this bench, Spec-Bench, EAGLE, Medusa.

    {"question_id": 81, "choices": [{"turns": ["…", "…"], "decoding_steps": [40, 92], "new_tokens": [179, 399],
                                     "wall_time": [6.7, 15.3], "accept_lengths": [4, 5, 3, …]}]}

A line may hold any other fields. Older files have no accept_lengths, and `idxs` in place of decoding_steps: the number,
from 0, of a turn's last step (EAGLE's and Medusa's evaluation/gen_*_answer*.py), so one less than there were. Of
several choices the first counts, as everywhere else.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falcon_cli.data.prompts import Record, lines_of, parse
from falcon_cli.errors import FalconError


@dataclass(frozen=True)
class FileAnswer:
    """One question's answer; figures are summed over its turns."""

    question_id: str
    texts: tuple[str, ...]
    """One a turn."""
    tokens: int
    """As the file counts them."""
    steps: int
    seconds: float
    accept_lengths: tuple[float, ...] | None = None
    """One a cycle, all turns in one; None where the file has none."""


def read_answers(path: Path) -> dict[str, FileAnswer]:
    """Read an answer file (`.gz` too), by question id; of a question that stands twice the last line counts.

    Raises:
        FalconError: The file cannot be read or holds no answers, or a line is malformed: it is named by its number.
    """
    lines = enumerate(lines_of(path), start=1)
    found = [parse(line, number, str(path), _answer)[0] for number, line in lines if line.strip()]
    if not found:
        raise FalconError(f"{path} holds no answers")
    return {answer.question_id: answer for answer in found}


def _answer(record: Record, number: int) -> FileAnswer:
    """Make an answer of a line; ValueError says what is wrong with it."""
    question, choices = record.get("question_id"), record.get("choices")
    if isinstance(question, bool) or not isinstance(question, (int, str)):
        raise ValueError('it has no "question_id"')
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError('"choices" must be a list of objects')
    choice = choices[0]
    texts = _texts(choice.get("turns"))
    lengths = choice.get("accept_lengths")
    if lengths is not None and not (isinstance(lengths, list) and all(map(_is_count, lengths))):
        raise ValueError('"accept_lengths" must be a list of numbers')
    return FileAnswer(
        question_id=str(question),
        texts=texts,
        tokens=sum(_whole(choice, "new_tokens", len(texts))),
        steps=_steps(choice, len(texts)),
        seconds=sum(_seconds(choice, len(texts))),
        accept_lengths=None if lengths is None else tuple(lengths),
    )


def _texts(turns: object) -> tuple[str, ...]:
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise ValueError('"turns" must be a list of texts')
    if any("\ud800" <= letter <= "\udfff" for turn in turns for letter in turn):
        raise ValueError('"turns" holds half a character (a lone surrogate)')  # no tokenizer takes it
    return tuple(turns)


def _steps(choice: dict[str, Any], turns: int) -> int:
    if "decoding_steps" in choice or "idxs" not in choice:
        return sum(_whole(choice, "decoding_steps", turns))
    return sum(_whole(choice, "idxs", turns)) + turns


def _whole(choice: dict[str, Any], key: str, turns: int) -> list[int]:
    numbers = _per_turn(choice, key, turns)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f'"{key}" must hold whole numbers from 0')
    return numbers


def _seconds(choice: dict[str, Any], turns: int) -> list[float]:
    numbers = _per_turn(choice, "wall_time", turns)
    if not all(_is_count(number) and number > 0 for number in numbers):
        raise ValueError('"wall_time" must hold positive seconds')
    return numbers


def _per_turn(choice: dict[str, Any], key: str, turns: int) -> list[Any]:
    numbers = choice.get(key)
    if not isinstance(numbers, list):
        raise ValueError(f'it has no "{key}", a list of numbers, one a turn')
    if len(numbers) != turns:
        raise ValueError(f'"{key}" holds {len(numbers)} numbers, "turns" {turns} texts')
    return numbers


def _is_count(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number < math.inf
