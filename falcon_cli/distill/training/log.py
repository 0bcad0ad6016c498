"""The logs of a training run: `metrics.jsonl`, a line a step, and `held_out.jsonl`, a line an evaluation."""

import json
from pathlib import Path
from typing import Any

from falcon_cli.sources import atomic_file, json_lines


class JsonlLog:
    """Appends lines to one file; lines from `step` on, which a resumed run writes again, are dropped first."""

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [line for line in read_log(path) if line["step"] < step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with atomic_file(path) as unfinished:
            unfinished.write_text(text)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line at once."""
        with self.path.open("a") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log; a line that a kill cut short is left out."""
    return list(json_lines(path))
