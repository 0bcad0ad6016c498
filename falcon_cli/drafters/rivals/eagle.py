"""EAGLE: one token a pass, drafted from the target's features by one linear layer and one decoder layer.

    position   n             │ n+1                k = 1: Falcon's alignment with blocks of one position
    reads      f(n), root    │ f̂(n+1), x̂(n+2)
    drafts     depth 1       │ depth 2 ...

Falcon's network with k = 1, a linear mixer and the paper's start of the outputs *is* EAGLE's: relaxed causal attention
over blocks of one position is causal attention, and there is no later slot to chain or to glance at. So EAGLE is that
network by another recipe, and drafts by the same engine.

Source: Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty" (ICML 2024).
"""

from dataclasses import dataclass

from falcon_cli.drafters.shared.tree_drafter import TreeOptions


@dataclass(frozen=True)
class EagleOptions(TreeOptions):
    """Settings of EAGLE."""
