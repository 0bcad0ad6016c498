"""Spec-Bench: 480 questions of six tasks (Xia et al. 2024, arXiv 2401.07851), given as a file: no registry has it."""

from falcon_cli.data.prompts import Question, read_jsonl
from falcon_cli.errors import FalconError
from falcon_cli.sources import data_file

FILE = "spec_bench.jsonl"


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Read the questions from `$FALCON_DATA/spec_bench.jsonl`; see `read_jsonl`.

    Raises:
        FalconError: also when there is no such file.
    """
    path = data_file(FILE)
    if path is None:
        raise FalconError(
            "spec-bench cannot be downloaded: give the question.jsonl of hemingkx/Spec-Bench as the data set, "
            f"or set FALCON_DATA to a folder that holds it as {FILE}"
        )
    return read_jsonl(path, keep_going)
