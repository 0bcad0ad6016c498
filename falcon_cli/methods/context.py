"""What a drafter is built from: the sources that a recipe names, and the same once they are loaded."""

from dataclasses import dataclass, replace
from typing import Protocol

from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.reference.ask import PromptOf


class DraftSources(Protocol):
    """What a recipe names to draft with."""

    @property
    def target(self) -> TargetRecipe:
        """The target."""

    @property
    def draft_model(self) -> str | None:
        """A small model, for sps."""

    @property
    def drafter(self) -> str | None:
        """Folder of a trained drafter; its config says for which method."""

    @property
    def tree(self) -> str:
        """A tree's file, auto, chain or dynamic, for methods with trees."""


@dataclass(frozen=True)
class DraftingContext:
    """The loaded models and the names that a drafter is built from."""

    target: LoadedTarget
    draft_model: LoadedTarget | None = None
    drafter: str | None = None
    """Folder of a trained drafter."""
    tree: str = "auto"
    """Its tree: a file, auto, chain or dynamic."""

    @classmethod
    def load(
        cls, sources: DraftSources, needs_draft_model: bool, prompt_of: PromptOf | None = None
    ) -> "DraftingContext":
        """Load the target, and the draft model on the same device and in the same dtype where a method needs it.

        `prompt_of` is what the target is asked by itself, as in `load_target`.

        Raises:
            FalconError: Either cannot be loaded.
        """
        draft_model = None
        if sources.draft_model is not None and needs_draft_model:
            recipe = replace(sources.target, model=sources.draft_model, revision=None, adapter=None)
            draft_model = load_target(recipe)
        return cls(load_target(sources.target, prompt_of), draft_model, sources.drafter, sources.tree)
