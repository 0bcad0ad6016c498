"""The folder of one distillation run.

recipe.yaml       resolved recipe         answers.jsonl     the target's answers, as each one ended
provenance.json   command, versions       features/         the target's features of every text, in shards
metrics.jsonl     one line per step       held_out.jsonl    one line per evaluation
curves.png        plot of both            state/            what --resume continues from
drafter/          the latest checkpoint, always complete
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from falcon_cli.errors import UsageError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.recipe.load import dump, load_recipe
from falcon_cli.recipe.provenance import provenance
from falcon_cli.sources import atomic_file, disk_errors

_FREE = {"out", "training.save_minutes", "cache.max_gb", "cache.folder", "training.decode_prompts"}
"""Keys that may change between sessions: they do not affect what is learned."""


@dataclass(frozen=True)
class DistillFolder:
    """A run folder and the places in it."""

    path: Path

    @property
    def answers(self) -> Path:
        """The target's answers."""
        return self.path / "answers.jsonl"

    @property
    def features(self) -> Path:
        """Folder of the shards."""
        return self.path / "features"

    @property
    def state(self) -> Path:
        """Folder of the state."""
        return self.path / "state"

    @property
    def drafter(self) -> Path:
        """Folder of the checkpoint."""
        return self.path / "drafter"

    @property
    def metrics(self) -> Path:
        """The log of the steps."""
        return self.path / "metrics.jsonl"

    @property
    def held_out(self) -> Path:
        """The log of the evaluations."""
        return self.path / "held_out.jsonl"

    @property
    def curves(self) -> Path:
        """The plot of both logs."""
        return self.path / "curves.png"

    @classmethod
    def open(cls, recipe: DistillRecipe, argv: Sequence[str], resume: bool) -> "DistillFolder":
        """Create a run folder, or continue in one.

        Raises:
            UsageError: It holds a run and `resume` is off, or the recipe has changed since.
            FalconError: It cannot be written.
        """
        folder = cls(Path(recipe.out))
        recipe_file = folder.path / "recipe.yaml"
        if recipe_file.is_file():
            if not resume:
                raise UsageError(
                    f"{folder.path} already holds a run: add --resume to go on with it, or name another --out"
                )
            if changed := changed_keys(load_recipe(DistillRecipe, recipe_file), recipe):
                raise UsageError(
                    f"{folder.path} was begun with other settings ({', '.join(changed)} changed): go on with the same "
                    "ones, or name another --out (init_from starts from its drafter)"
                )
            return folder
        with disk_errors(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.put("provenance.json", json.dumps(provenance(argv), indent=2) + "\n")
            folder.put("recipe.yaml", dump(recipe))
        return folder

    def put(self, name: str, text: str) -> None:
        """Write a file atomically."""
        with atomic_file(self.path / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def changed_keys(before: DistillRecipe, now: DistillRecipe) -> list[str]:
    """Dotted keys that differ, except those that may change."""
    old, new = dict(_flat(asdict(before))), dict(_flat(asdict(now)))
    return [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in _FREE]


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
