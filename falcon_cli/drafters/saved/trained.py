"""The methods whose drafters `falcon distill` trains: everything that such a method is, once.

A new one is a file in `drafters/rivals/`, an entry here, and an entry in `distill/students/table.py`, which says how
it learns.

EAGLE, one token a pass, drafted from the target's features by one linear layer and one decoder layer:

    position   n             │ n+1                k = 1: Falcon's alignment with blocks of one position
    reads      f(n), root    │ f̂(n+1), x̂(n+2)
    drafts     depth 1       │ depth 2 ...

Falcon's network with k = 1, a linear mixer and the paper's start of the outputs *is* EAGLE's: relaxed causal attention
over blocks of one position is causal attention, and there is no later slot to chain or to glance at. So EAGLE is that
network by another recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.drafters.falcon.propose import Falcon, FalconOptions
from falcon_cli.drafters.rivals.medusa import Medusa, MedusaNetwork
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions
from falcon_cli.recipe.distill import MedusaRecipe, NetworkRecipe
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import TargetOutline
from falcon_cli.tree.shape import TreeShape


@dataclass(frozen=True)
class TrainedMethod:
    """A method with a trained drafter."""

    summary: str
    """What the drafter is, for the table of methods."""
    card_title: str
    """The first words of its model card."""
    citation: str
    """The paper, in Markdown."""
    recipe: type
    """The recipe of its network."""
    network: Callable[[Any, TargetOutline], nn.Module]
    """Recipe, target's outline → network."""
    drafter: Callable[[Any, TargetModel, TreeShape, Tensor | None], TreeDrafter]
    """Network, target, tree, draft vocabulary → drafter."""
    options: type[TreeOptions] = TreeOptions
    """Settings on the command line."""
    default_depth: Callable[[int], int] = lambda k: 0
    """k → deepest level of the built-in tree; 0 is any."""
    refusal: Callable[[Any], str | None] = lambda recipe: None
    """Recipe → why such a network is not this method's; None where it is."""


def _not_eagle(recipe: NetworkRecipe) -> str | None:
    return None if recipe.is_eagle else "its network is not EAGLE's (k: 1, linear, start: own)"


TRAINED: dict[str, TrainedMethod] = {
    "medusa": TrainedMethod(
        summary="Medusa's heads",
        card_title="Medusa heads",
        citation=(
            "Cai, Li, Geng, Peng, Lee, Chen, Dao, [Medusa: Simple LLM Inference Acceleration Framework with Multiple "
            "Decoding Heads](https://arxiv.org/abs/2401.10774), ICML 2024"
        ),
        recipe=MedusaRecipe,
        network=MedusaNetwork,
        drafter=Medusa,
        default_depth=lambda k: k,
    ),
    "eagle": TrainedMethod(
        summary="EAGLE's autoregressive drafter",
        card_title="An EAGLE drafter",
        citation=(
            "Li, Wei, Zhang, Zhang, [EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty]"
            "(https://arxiv.org/abs/2401.15077), ICML 2024"
        ),
        recipe=NetworkRecipe,
        network=DrafterNetwork,
        drafter=Falcon,
        refusal=_not_eagle,
    ),
    "falcon": TrainedMethod(
        summary="Falcon's semi-autoregressive drafter",
        card_title="A Falcon drafter",
        citation=(
            "Gao, Xie, Xiang, Ji, [Falcon: Faster and Parallel Inference of Large Language Models through Enhanced "
            "Semi-Autoregressive Drafting and Custom-Designed Decoding Tree](https://arxiv.org/abs/2412.12639), "
            "AAAI 2025"
        ),
        recipe=NetworkRecipe,
        network=DrafterNetwork,
        drafter=Falcon,
        options=FalconOptions,
    ),
}
"""Method → what it is. The order is that of tables."""
