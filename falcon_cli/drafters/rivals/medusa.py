"""Medusa: K heads on the target's own feature, one for each of the next K tokens.

    feature f(n) ─┬─ head 1 ─ x(n+2)      the root x(n+1) is known: it is what the LM head itself says of f(n)
                  ├─ head 2 ─ x(n+3)
                  └─ head 3 ─ x(n+4)

    a head     f(n) ─ ÷ norm weight ─ residual block ─ linear ─ norm ─ the target's LM head, which all share

No head sees what another one drafts, so all nodes of a depth choose from one list: the tree is their product, or the
part of it that pays. DrafterProfile costs next to nothing; there is no cache and no second pass.

Source: Cai et al., "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads" (ICML 2024),
Medusa-1 (the target stays frozen). There each head has an LM head of its own, which starts as the target's; here that
is the target's after a linear layer of the head's own, and a norm that starts as the target's last.
Shapes: K heads (slots of one block), D hidden size, E features that the head reads, F nodes that a slot
fills, T nodes, X best tokens.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from falcon_cli.core import Scores, Verdict
from falcon_cli.drafters.shared.head import Head, head_of
from falcon_cli.drafters.shared.norm import divisor
from falcon_cli.drafters.shared.tree_drafter import Choose, TreeDrafter, TreePlan
from falcon_cli.native.swap import swap_inside
from falcon_cli.recipe.distill import MedusaRecipe
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import TargetOutline
from falcon_cli.tree.passes import Slot
from falcon_cli.tree.shape import TreeShape


class MedusaNetwork(nn.Module):
    """The heads: norm(M·(x + SiLU(W·x + b))) each; at first W = b = 0 and M = 1: the LM head's own guess.

    Args:
        recipe: How many.
        outline: What they take from the target: its sizes, and its last norm.
    """

    scale_D: Tensor
    shift_D: Tensor | None

    def __init__(self, recipe: MedusaRecipe, outline: TargetOutline):
        super().__init__()
        self.recipe, self.k = recipe, recipe.k
        hidden = outline.hidden_size
        self.epsilon = outline.norm.epsilon
        self.blocks = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(recipe.k))
        self.maps = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(recipe.k))
        self.norm_KD = nn.Parameter(torch.ones(recipe.k, hidden))
        self.register_buffer("scale_D", torch.ones(hidden))
        shifted = outline.norm.shift_D is not None
        self.bias_KD = nn.Parameter(torch.zeros(recipe.k, hidden)) if shifted else None
        self.register_buffer("shift_D", torch.zeros(hidden) if shifted else None)

    @torch.no_grad()
    def initialise(self, outline: TargetOutline) -> None:
        """Start as the LM head itself: its guess for every head."""
        for block, mapped in zip(self.blocks, self.maps, strict=True):
            for parameter in block.parameters():
                parameter.zero_()
            nn.init.eye_(mapped.get_parameter("weight"))
        norm = outline.norm
        self.norm_KD.copy_(norm.scale_D.expand_as(self.norm_KD))
        self.scale_D.copy_(divisor(norm.scale_D))
        if self.bias_KD is not None and self.shift_D is not None and norm.shift_D is not None:
            self.bias_KD.copy_(norm.shift_D.expand_as(self.bias_KD))
            self.shift_D.copy_(norm.shift_D)

    def forward(self, features: Tensor) -> Tensor:
        """The features [..., K, D] that the heads make of the target's [..., D], for the LM head."""
        scaled = (features if self.shift_D is None else features - self.shift_D) / self.scale_D
        made = torch.stack([m(scaled + silu(b(scaled))) for b, m in zip(self.blocks, self.maps, strict=True)], -2)
        normed = rms_norm(made, made.shape[-1:], eps=self.epsilon) * self.norm_KD
        return normed if self.bias_KD is None else normed + self.bias_KD


class Medusa(TreeDrafter):
    """A tree drafted by Medusa's heads.

    Args:
        network: The heads; kernels take their weights where the target is on them.
        target: The target they were distilled from.
        shape: The tree, no deeper than there are heads.
        vocabulary_W: Ascending ids of the tokens that may be drafted; None is all.
        choose: See `TreeDrafter`.
        head: The LM head on that vocabulary, where another drafter has made one already.

    Raises:
        FalconError: The tree asks for more candidates or depths than there are.
    """

    def __init__(
        self,
        network: MedusaNetwork,
        target: TargetModel,
        shape: TreeShape,
        vocabulary_W: Tensor | None = None,
        *,
        choose: Choose | None = None,
        head: Head | None = None,
    ):
        dtype = next(network.parameters()).dtype
        super().__init__(network.k, head or head_of(target, vocabulary_W, dtype), target.device, choose)
        self.deepest, self.dtype = network.k, dtype
        self.target, self.vocabulary_W = target, vocabulary_W
        if target.native is not None:
            swap_inside(network, "int8")
        self.network = network
        self.set_tree(shape)

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """See `Drafter`."""
        super().start(prompt_L, scores)
        self._feature_1D = scores.features_TD[-1:]

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """See `Drafter`: the feature of the last accepted token is all that counts."""
        self._feature_1D = scores.features_TD[list(verdict.path[-1:])]

    def with_tree(self, shape: TreeShape, choose: Choose | None = None) -> "Medusa":
        """See `TreeDrafter`."""
        return Medusa(self.network, self.target, shape, self.vocabulary_W, choose=choose, head=self.head)

    def passes(self, plan: TreePlan, tokens_T: Tensor) -> Iterator[Tensor]:
        """See `TreeDrafter`: one pass, whose heads are read at once."""
        (step,) = plan.passes
        depths = len(step.slots)
        features_KD = self.network(self._feature_1D.to(self.dtype))[0, :depths]
        self._best_KX = self.best(features_KD, max(slot.width for slot in step.slots))
        features_TD = features_KD.new_zeros(len(tokens_T), features_KD.shape[-1])
        for slot in step.slots:
            features_ED = features_KD[slot.output_E]
            features_TD[slot.parents_J] = features_ED[slot.feature_J]
            tokens_T[slot.begin : slot.end] = self.choose(features_ED, slot)
        yield features_TD

    def candidates(self, features_ED: Tensor, slot: Slot) -> Tensor:
        """See `TreeDrafter`: out of the lists that the pass began with."""
        return self._best_KX[slot.output_E, : slot.width].flatten()[slot.choice_F]
