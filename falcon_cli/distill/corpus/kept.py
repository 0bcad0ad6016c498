"""The texts of a run, rendered once and kept: what `--resume` goes on with, whatever has changed since.

    {"tally": {...}}                                                        what became of the dialogues
    {"id": "abc", "tokens": [...], "answers": [[12, 40], [55, 61]]}         a sample; its answers' places
    {"id": "abc/0", "tokens": [...]}                                        a prompt for the target to answer

A template may write the date, a hub's data set may grow, a file may be edited: a run's texts stay as they were read.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from falcon_cli.distill.corpus.sample import CorpusPrompt, Sample
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_file, disk_errors

Kept = TypeVar("Kept", Sample, CorpusPrompt)


def keep(path: Path, tally: Tally, texts: Sequence[Kept]) -> None:
    """Write all texts, whole or not at all.

    Raises:
        FalconError: The disk is full.
    """
    with disk_errors(path.parent), atomic_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"tally": tally.to_json()}) + "\n")
        for text in texts:
            file.write(json.dumps(text.to_json(), separators=(",", ":")) + "\n")


def kept(path: Path, from_json: Callable[[dict[str, Any]], Kept]) -> tuple[Tally, list[Kept]] | None:
    """The texts that were kept, each made of its line; None where there are none yet.

    Raises:
        FalconError: The file is damaged, or holds texts of another kind.
    """
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8") as file:
            tally = Tally.from_json(json.loads(next(file))["tally"])
            return tally, [from_json(json.loads(line)) for line in file]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise FalconError(f"{path} is damaged: name another --out") from error
