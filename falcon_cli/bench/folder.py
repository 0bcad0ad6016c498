"""The folder of one benchmark run (`--out`).

recipe.yaml        resolved recipe            records.jsonl      every answer, as it came; what --resume reads
provenance.json    command, versions          results.json       the document that --json prints
report.md          for people                 speedup.png        the same as a picture
answers/           one file a method, in Spec-Bench's answer format
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falcon_cli.bench.answers import answers
from falcon_cli.bench.plots import speedup_chart
from falcon_cli.bench.records import RecordLog, TurnRecord
from falcon_cli.bench.report import markdown
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.load import dump, load_recipe
from falcon_cli.recipe.provenance import provenance
from falcon_cli.recipe.schema import BenchRecipe
from falcon_cli.sources import atomic_file


@dataclass(frozen=True)
class RunFolder:
    """An opened run folder."""

    path: Path

    @property
    def log(self) -> RecordLog:
        """The records so far."""
        return RecordLog(self.path / "records.jsonl")

    @classmethod
    def open(cls, path: Path, recipe: BenchRecipe, argv: Sequence[str], resume: bool) -> "RunFolder":
        """Begin a run folder, or go on with one.

        Raises:
            UsageError: It holds a run already and `resume` is off, or the recipe has changed since.
            FalconError: It cannot be written.
        """
        folder = cls(path)
        kept = path / "recipe.yaml"
        if kept.is_file() and folder.log.read():  # a run that failed before its first answer binds nobody
            if not resume:
                raise UsageError(f"{path} already holds a run: add --resume to go on with it, or name another --out")
            _check_unchanged(load_recipe(BenchRecipe, kept), recipe, path)
            return folder
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FalconError(f"cannot make {path}: {error.strerror}; name another --out") from error
        folder._put("provenance.json", json.dumps(provenance(argv), indent=2) + "\n")
        folder._put("recipe.yaml", dump(recipe))
        return folder

    def write(self, results: dict[str, Any], records: Sequence[TurnRecord]) -> None:
        """Write results, report, answers and picture, each whole or not at all."""
        self._put("results.json", json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        self._put("report.md", markdown(results, shlex.join(results["machine"]["command"])))
        (self.path / "answers").mkdir(exist_ok=True)
        for method in dict.fromkeys(record.method for record in records):
            lines = (
                json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers(records, method, results["target"])
            )
            self._put(f"answers/{file_name(method)}.jsonl", "".join(lines))
        with atomic_file(self.path / "speedup.png") as unfinished:
            speedup_chart(results, unfinished)

    def _put(self, name: str, text: str) -> None:
        with atomic_file(self.path / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def file_name(method: str) -> str:
    """A method's name with its settings, fit for a file: `lookahead:window=7` → `lookahead_window-7`."""
    return "".join(letter if letter.isalnum() or letter in "._-" else {"=": "-"}.get(letter, "_") for letter in method)


def _check_unchanged(before: BenchRecipe, now: BenchRecipe, path: Path) -> None:
    changed = [key for key, value in vars(now).items() if vars(before)[key] != value]
    if changed:
        raise UsageError(
            f"{path} holds a run with other settings ({', '.join(changed)} changed): "
            "go on with the same ones, or name another --out"
        )
