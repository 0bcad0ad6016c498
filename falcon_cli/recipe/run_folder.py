"""The folder of a run, whichever command runs it: its recipe, its provenance, and the one rule for going on.

A folder that holds a run is gone on with only where the user says so (`--resume`), and only with the same settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.load import dump, load_recipe
from falcon_cli.recipe.provenance import provenance
from falcon_cli.sources import atomic_file, disk_errors


@dataclass(frozen=True)
class RunFolder:
    """A run's folder."""

    path: Path
    FREE: ClassVar[frozenset[str]] = frozenset()
    """Dotted keys of the recipe that may change before a run goes on: they do not touch its results."""
    OTHERWISE: ClassVar[str] = "name another --out"
    """What to do where a folder's run is another one."""

    def begun(self) -> bool:
        """Whether the run in the folder has results that bind the next one."""
        return True

    def holds_run(self, recipe: Any, resume: bool) -> bool:
        """Whether there is a run to go on with.

        Raises:
            UsageError: There is one and `resume` is off, or its recipe was another.
        """
        kept = self.path / "recipe.yaml"
        if not kept.is_file() or not self.begun():
            return False
        if not resume:
            raise UsageError(f"{self.path} already holds a run: add --resume to go on with it, or name another --out")
        if changed := changed_keys(load_recipe(type(recipe), kept), recipe, self.FREE):
            raise UsageError(
                f"{self.path} holds a run with other settings ({', '.join(changed)} changed): go on with the same "
                f"ones, or {self.OTHERWISE}"
            )
        return True

    def enter(self, recipe: Any, argv: Sequence[str], resume: bool) -> None:
        """Begin a run, or go on with the one that the folder holds.

        Raises:
            UsageError: As `holds_run`.
            FalconError: The folder cannot be written.
        """
        if self.holds_run(recipe, resume):
            return
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.put("provenance.json", json.dumps(provenance(argv), indent=2) + "\n")
            self.put("recipe.yaml", dump(recipe))

    @property
    def date(self) -> datetime:
        """When the run in the folder began; the same however often it is gone on with.

        Raises:
            FalconError: The folder's provenance is damaged.
        """
        kept = self.path / "provenance.json"
        try:
            return datetime.fromisoformat(json.loads(kept.read_bytes())["date"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise FalconError(f"{kept} does not tell the date of the run: {self.OTHERWISE}") from error

    def put(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        write_text(self.path / name, text)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def changed_keys(before: Any, now: Any, free: frozenset[str] = frozenset()) -> list[str]:
    """Dotted keys in which two recipes differ, those in `free` left out."""
    old, new = dict(_flat(asdict(before))), dict(_flat(asdict(now)))
    return [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in free]


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
