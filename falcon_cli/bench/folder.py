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
from typing import Any, ClassVar

from falcon_cli.bench.figures.answers import answers
from falcon_cli.bench.figures.records import RecordLog, TurnRecord
from falcon_cli.bench.reports.plots import speedup_chart
from falcon_cli.bench.reports.report import markdown
from falcon_cli.errors import UsageError
from falcon_cli.recipe.run_folder import RunFolder, write_text
from falcon_cli.recipe.schema import BenchRecipe
from falcon_cli.sources import atomic_file


@dataclass(frozen=True)
class BenchFolder(RunFolder):
    """A benchmark's folder."""

    FREE: ClassVar[frozenset[str]] = frozenset({"datasets", "table"})
    """They change what is shown of a data set's run, not the run."""

    @property
    def log(self) -> RecordLog:
        """The records so far."""
        return RecordLog(self.path / "records.jsonl")

    @classmethod
    def open(cls, path: Path, recipe: BenchRecipe, argv: Sequence[str], resume: bool) -> "BenchFolder":
        """Begin a run folder, or go on with one.

        Raises:
            UsageError: It holds a run and `resume` is off, or the recipe has changed since.
            FalconError: It cannot be written.
        """
        folder = cls(path)
        folder.enter(recipe, argv, resume)
        return folder

    def begun(self) -> bool:
        """See `RunFolder`: a run that failed before its first answer binds nobody."""
        return bool(self.log.read())

    def holds_run(self, recipe: BenchRecipe, resume: bool) -> bool:
        """See `RunFolder`; the folder of several data sets is none of a single run.

        Raises:
            UsageError: It is one, too.
        """
        if not (self.path / "recipe.yaml").is_file() and (self.path / "results.json").is_file():
            raise UsageError(f"{self.path} holds the results of several data sets: name another --out")
        return super().holds_run(recipe, resume)

    def results(self) -> dict[str, Any] | None:
        """The results document of a run that is wholly measured, None of any other."""
        try:
            results = dict(json.loads((self.path / "results.json").read_bytes()))
        except (OSError, ValueError):
            return None
        return results if results["prompts"] == len(self.log.read()) else None

    def write(self, results: dict[str, Any], records: Sequence[TurnRecord]) -> None:
        """Write results, report, answers and picture, each whole or not at all."""
        write_text(
            self.path / "results.json", json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        )
        write_text(self.path / "report.md", markdown(results, shlex.join(results["machine"]["command"])))
        (self.path / "answers").mkdir(exist_ok=True)
        for method in dict.fromkeys(record.method for record in records):
            lines = (
                json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers(records, method, results["target"])
            )
            write_text(self.path / "answers" / f"{file_name(method)}.jsonl", "".join(lines))
        with atomic_file(self.path / "speedup.png") as unfinished:
            speedup_chart(results, unfinished)


def file_name(method: str) -> str:
    """A method's name with its settings, fit for a file: `lookahead:window=7` → `lookahead_window-7`."""
    return "".join(letter if letter.isalnum() or letter in "._-" else {"=": "-"}.get(letter, "_") for letter in method)
