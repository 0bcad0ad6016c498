"""The one table of data sets, and how one is loaded by name or from a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from falcon_cli.data.prompts import Question, read_jsonl
from falcon_cli.data.sets import gsm8k, humaneval, math, mt_bench, sharegpt, spec_bench
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.spelling import did_you_mean

Loader = Callable[[bool], tuple[list[Question], int]]
"""`keep_going` → the questions, and how many malformed ones were skipped."""

DATASETS: dict[str, Loader] = {
    "mt-bench": mt_bench.load,
    "humaneval": humaneval.load,
    "gsm8k": gsm8k.load,
    "math-500": math.load,
    "sharegpt": sharegpt.load,
    "spec-bench": spec_bench.load,
}


@dataclass(frozen=True)
class Loaded:
    """The questions of one data set."""

    name: str
    questions: tuple[Question, ...]
    skipped: int
    """Malformed lines that were left out."""


def load(name_or_path: str, limit: int | None = None, keep_going: bool = False) -> Loaded:
    """Load a data set of the table, or a JSON lines file.

    Args:
        name_or_path: a name in `DATASETS`, or a file in one of the forms of `falcon_cli.data.prompts`.
        limit: take this many questions, evenly spaced over all, so that every category is there.
        keep_going: skip malformed lines instead of stopping at the first.

    Raises:
        UsageError: no such name or file, or a limit below 1.
        FalconError: the data cannot be had or read, or holds no question.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the limit must be at least 1, not {limit}")
    name, (questions, skipped) = _read(name_or_path, keep_going)
    if not questions:
        raise FalconError(f"{name_or_path} holds no question" + (f" ({skipped} lines skipped)" if skipped else ""))
    return Loaded(name, tuple(_evenly(_distinct(questions), limit or len(questions))), skipped)


def _read(name_or_path: str, keep_going: bool) -> tuple[str, tuple[list[Question], int]]:
    if name_or_path in DATASETS:
        return name_or_path, DATASETS[name_or_path](keep_going)
    path = Path(os.path.expanduser(name_or_path))
    if name_or_path and os.path.exists(path):
        return path.name.split(".")[0], read_jsonl(path, keep_going)
    hint = did_you_mean(name_or_path, DATASETS)
    raise UsageError(f'no data set or file "{name_or_path}"{hint}: give one of {", ".join(DATASETS)}, or a .jsonl file')


def _distinct(questions: list[Question]) -> list[Question]:
    """Number the later ones of questions that share an id (ShareGPT's do now and then): `id`, `id#2`, `id#3`."""
    seen: Counter[str] = Counter()
    named = []
    for question in questions:
        seen[question.id] += 1
        count = seen[question.id]
        named.append(question if count == 1 else replace(question, id=f"{question.id}#{count}"))
    return named


def _evenly(questions: list[Question], limit: int) -> list[Question]:
    count = min(limit, len(questions))
    return [questions[place * len(questions) // count] for place in range(count)]
