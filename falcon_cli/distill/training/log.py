"""The diary of a training run: `metrics.jsonl`, a line a step, and `held_out.jsonl`, a line a look at held-out text."""

import json
from pathlib import Path
from typing import Any

from falcon_cli.sources import atomic_file


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
    """The whole lines of a diary; what a kill cut short is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
