"""GSM8K, test split: 1319 grade-school maths problems (Cobbe et al. 2021, arXiv 2110.14168; MIT)."""

import re
from typing import Any

from falcon_cli.data.prompts import Question, Record, read_jsonl, text_of
from falcon_cli.errors import FalconError
from falcon_cli.sources import data_file

FILE = "gsm8k_test.jsonl"
HUB_ID = "openai/gsm8k"


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Read the questions from `$FALCON_DATA/gsm8k_test.jsonl`, else from the hub.

    Returns:
        As `read_jsonl`.

    Raises:
        FalconError: also when there is no such file and the hub cannot be reached.
    """
    path = data_file(FILE)
    if path is not None:
        return read_jsonl(path, keep_going, _question)
    return [_question(dict(row), number) for number, row in enumerate(_hub_rows(), start=1)], 0


def _hub_rows() -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(HUB_ID, "main", split="test")
    except Exception as error:  # the hub's client fails in a dozen ways, all of which mean: not reached
        raise FalconError(
            f"gsm8k: cannot fetch {HUB_ID} from the hub ({type(error).__name__}): "
            f"set FALCON_DATA to a folder that holds {FILE}, or give a .jsonl file as the data set"
        ) from error


def _question(record: Record, number: int) -> Question:
    """Take the problem as the turn and the number after `####` as the reference."""
    question, (_, mark, answer) = text_of(record, "question"), text_of(record, "answer").rpartition("####")
    if not mark:
        raise ValueError('its "answer" has no final number after ####')
    return Question(str(number), (question,), "math", reference=answer.strip().replace(",", ""))


def solved(answer: str, reference: str) -> bool:
    """Whether the last number of an answer is the reference."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
    return bool(found) and float(found[-1].replace(",", "")) == float(reference)
