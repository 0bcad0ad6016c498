"""What a recipe for `falcon tune-tree` may say."""

from __future__ import annotations

from dataclasses import dataclass, field

from falcon_cli.errors import FalconError
from falcon_cli.recipe.checks import Recipe, at_least
from falcon_cli.recipe.schema import TargetRecipe


@dataclass(frozen=True)
class TuneTreeRecipe(Recipe):
    """Which drafters' trees to fit, to what text, at what prices."""

    target: TargetRecipe = field(default_factory=TargetRecipe)
    drafters: tuple[str, ...] = ()
    """Folders of drafters, one for each k to choose from; none takes the one that comes with falcon for the target."""
    dataset: str = "sharegpt"
    """Prompts, a data set's name or a .jsonl file; those that falcon distill holds out come first."""
    prompts: int = 48
    """Prompts that ranks are taken on."""
    validation_prompts: int = 24
    """Other prompts, on which the best trees are run."""
    max_prompt_tokens: int = 512
    """Longer prompts are left out."""
    max_new_tokens: int = 96
    """Longest answer to a prompt."""
    template: str | None = None
    """Chat template: a name or a Jinja file; None takes the tokenizer's own."""
    parse_special: bool = False
    """Control tokens in a prompt's words are control tokens, not words."""
    nodes: int = 64
    """Most drafted nodes of a tree."""
    passes: int = 4
    """Most passes of a draft."""
    width: int = 32
    """Ranks that a tree may use."""
    cost: str | None = None
    """A cost table's file, of another machine perhaps; `measure` measures again; None takes what was measured here."""
    contexts: tuple[int, ...] = (64, 256, 768)
    """Tokens of text before the drafts whose cost is measured."""
    rounds: int = 11
    """Measurements of each size."""
    finalists: int = 3
    """Trees that are run for real."""
    seed: int = 0
    """For the order in which they run."""
    out: str | None = None
    """Folder of the report; None keeps what was measured in the cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "max_prompt_tokens", "nodes", "passes", "width", "rounds", "finalists")
        at_least(self, 2, "prompts", "max_new_tokens")
        at_least(self, 0, "validation_prompts", "seed")
        if not self.contexts or min(self.contexts) < 1:
            raise FalconError("contexts must name at least one length, from 1")


QUICK = ("prompts=16", "validation_prompts=8", "max_new_tokens=64", "rounds=5", "contexts=[256]", "nodes=32")
"""What --quick sets where nothing else is said."""
