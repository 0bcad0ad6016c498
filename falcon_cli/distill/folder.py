"""The folder of one distillation run.

recipe.yaml       resolved recipe         texts.jsonl       the corpus, rendered once
provenance.json   command, versions       answers.jsonl     the target's own answers, as they came
metrics.jsonl     a line a step           features/         what the target says of every text, in shards
curves.png        both as a picture       held_out.jsonl    an evaluation a line
drafter/          the checkpoint,         state/            what --resume goes on from
                  loadable at any time
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.recipe.run_folder import RunFolder


@dataclass(frozen=True)
class DistillFolder(RunFolder):
    """A distillation's folder."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"out", "training.save_minutes", "cache.max_gb", "cache.folder", "training.decode_prompts"}
    )
    OTHERWISE: ClassVar[str] = "name another --out (init_from starts from its drafter)"

    @property
    def texts(self) -> Path:
        """The corpus' texts, or its prompts where the target answers them."""
        return self.path / "texts.jsonl"

    @property
    def answers(self) -> Path:
        """The target's own answers."""
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
        """The log of the evaluations on held-out text."""
        return self.path / "held_out.jsonl"

    @property
    def curves(self) -> Path:
        """The picture."""
        return self.path / "curves.png"

    @classmethod
    def open(cls, recipe: DistillRecipe, argv: Sequence[str], resume: bool) -> "DistillFolder":
        """Begin a run folder, or go on with one.

        Raises:
            UsageError: It holds a run and `resume` is off, or the recipe has changed since.
            FalconError: It cannot be written.
        """
        folder = cls(Path(recipe.out))
        folder.enter(recipe, argv, resume)
        return folder
