"""Drafting with Falcon's network: k depths of a token tree a pass (Falcon, sections 3.1 and 3.4).

The target has read x1..xn, the root x(n+1) is known. For k = 2, a tree of depth 4:

    position   n−1            n              │ n+1               n+2
    input      f(n−1), x(n)   f(n), root     │ f̂(n+1), x̂(n+2)    f̂(n+2), x̂(n+3)      one block a row, R rows
    output     f̂(n+1)         f̂(n+2)         │ f̂(n+3)            f̂(n+4)
    head       depth 1        depth 2        │ depth 3           depth 4
               pass 1, committed             │ pass 2, for each node at depth 2 that has children

Pass 1 ends at n, wherever the blocks before it ended: keys and values do not depend on the mask (there is one decoder
layer), so those in the cache stay right, and only the block's queries are run again, from the mixer's outputs, which
are kept for the last k−1 positions. A row of pass 2 is a node at depth 2: the tokens on the way to it, the features
that its parent's row predicted (all siblings share those), and the mixer's state at the end of its parent's row. Rows
lie behind the committed positions in the cache and are forgotten after the last pass; what was accepted comes again,
with the target's own features, as part of the next cycle's pass 1.

Shapes: L positions, R rows of a pass, K slots of a row, D hidden size, W draft vocabulary, E features that the head
reads, T nodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.attention.view import View
from falcon_cli.core import Scores, Verdict
from falcon_cli.drafters.falcon.network import DrafterNetwork, LstmState
from falcon_cli.drafters.falcon.pass_runner import PassRunner, make_runner
from falcon_cli.drafters.shared.head import head_of
from falcon_cli.drafters.shared.tree_drafter import Choose, TreeDrafter, TreeOptions, TreePlan
from falcon_cli.errors import UsageError
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import positions_of
from falcon_cli.tree.shape import TreeShape


@dataclass(frozen=True)
class FalconOptions(TreeOptions):
    """Settings of Falcon."""

    copy: int | None = 0
    """Length of an n-gram after whose repetition what followed it is drafted instead; 0 is never, None (auto) what
    falcon tune-tree found best here, else 3."""
    length: int = 0
    """Tokens copied at most; 0 is what falcon tune-tree found best here, else 7."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.copy or 0) < 0 or self.length < 0:
            raise UsageError("falcon: needs copy >= 0 and length >= 0")


class Falcon(TreeDrafter):
    """A tree drafted by Falcon's network.

    Args:
        network: The drafter; its attention is switched to the target's backend, or its layers to the target's kernels.
        target: The target it was distilled from; embedding and LM head are its own.
        shape: The tree.
        vocabulary_W: Ascending ids of the tokens that may be drafted; None is all.
        choose: See `TreeDrafter`.
        sharing: A drafter of the same network, whose kernels and head serve this one too.

    Raises:
        FalconError: The tree asks for more candidates than there are, or is too wide for the target's cache.
    """

    def __init__(
        self,
        network: DrafterNetwork,
        target: TargetModel,
        shape: TreeShape,
        vocabulary_W: Tensor | None = None,
        *,
        choose: Choose | None = None,
        sharing: "Falcon | None" = None,
    ):
        self.network, self.target, self.vocabulary_W = network, target, vocabulary_W
        self.embedding_VD = target.embedding_VD
        # The kernels take the network's layers away: a later drafter shares what the first one made of them.
        self.dtype: torch.dtype = sharing.dtype if sharing else next(network.parameters()).dtype
        head = sharing.head if sharing else head_of(target, vocabulary_W, self.dtype)
        super().__init__(network.k, head, target.device, choose)
        self.chained = network.chained
        self.runner: PassRunner = sharing.runner if sharing else make_runner(network, target)
        self.chunk = target.chunk
        self._context = target.context_limit
        self.set_tree(shape)

    def set_tree(self, shape: TreeShape) -> None:
        """See `TreeDrafter`."""
        super().set_tree(shape)
        self.cache = self.runner.new_cache(self._context + positions_of(self.plan(shape.height).passes))
        self._state: LstmState | None = None
        """The mixer's, after the last committed position."""
        self._tail_BLD = self._nothing()
        """The mixer's outputs at the last k−1 committed positions."""
        self._tokens: list[int] = []
        """Tokens of the pending positions: the root, or accepted ones."""
        self._features: list[Tensor] = []
        """The target's features that go with them, each of the token before."""

    def with_tree(self, shape: TreeShape, choose: Choose | None = None) -> "Falcon":
        """See `TreeDrafter`."""
        return Falcon(self.network, self.target, shape, self.vocabulary_W, choose=choose, sharing=self)

    @torch.inference_mode()
    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Read the prompt: every position but its last, whose token, the root, comes with `propose`."""
        super().start(prompt_L, scores)
        self.cache.rewind(0)
        self._state, self._tail_BLD = None, self._nothing()
        self._tokens, self._features = [], [scores.features_TD[-1:]]
        if len(prompt_L) == 1:
            return
        mixed_BLD = self._mix_on(prompt_L[1:], scores.features_TD[:-1])
        for piece_BLD in mixed_BLD.split(self.chunk, dim=1):
            rows = piece_BLD.shape[1]
            self._attend(piece_BLD, View(self.cache.length, torch.arange(rows, device=self.device), None), rows)
        self._tail_BLD = self._last(mixed_BLD, self.k - 1)

    def note_root(self, token: int) -> None:
        """See `TreeDrafter`."""
        super().note_root(token)
        self._tokens.append(token)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Keep the accepted tokens and the target's features of the root and them, for the next pass 1."""
        self._tokens.extend(verdict.accepted)
        self._features.append(scores.features_TD[list(verdict.path)])

    def passes(self, plan: TreePlan, tokens_T: Tensor) -> Iterator[Tensor]:
        """See `TreeDrafter`; there is no pass while the text is shorter than a block."""
        hidden_RKD = self._read_committed()
        state, committed = self._state, self.cache.length
        if hidden_RKD.shape[1] < self.k:
            return
        features_TD = hidden_RKD.new_zeros(len(tokens_T), hidden_RKD.shape[-1])
        try:
            for number, step in enumerate(plan.passes):
                if number > 0:
                    # Passes 2 and later (section 3.1): a row reads the k tokens on the way to its node, each with the
                    # predicted feature that it was drafted from, and goes on from its parent row's mixer state.
                    mixed = self.runner.mix(
                        self._embed(tokens_T[step.block_RK]),
                        features_TD[step.above_RK],
                        None if state is None else (state[0][:, step.parent_R], state[1][:, step.parent_R]),
                    )
                    # Rows see the committed positions and their own ancestors' blocks, never a sibling's.
                    view = View(committed, step.depth_Q, step.ancestors_QC, step.earlier_U)
                    hidden_RKD = self._attend(mixed.hidden_BLD.flatten(0, 1)[None], view, self.k).view_as(
                        mixed.hidden_BLD
                    )
                    state = mixed.state
                # Slots are drafted in turn: a later one takes in the token just drafted before it (chained).
                for place, slot in enumerate(step.slots):
                    before_ED = self._embed(tokens_T[slot.said_E]) if place else None
                    features_ED = self.runner.finish(hidden_RKD.flatten(0, 1)[slot.output_E], before_ED)
                    # Siblings share the feature that they were drafted from; their rows read it in the next pass.
                    features_TD[slot.parents_J] = features_ED[slot.feature_J]
                    tokens_T[slot.begin : slot.end] = self.choose(features_ED, slot)
                yield features_TD
        finally:
            # Predicted positions are forgotten: what is accepted comes again with the target's own features.
            self.cache.rewind(committed)

    def _read_committed(self) -> Tensor:
        """Pass 1: read what was accepted since the last one; returns the last block's hidden states [1, K, D].

        The block is shorter while the text is shorter than k positions.
        """
        fresh_BLD = self._mix_on(torch.tensor(self._tokens, device=self.device), torch.cat(self._features))
        fresh = fresh_BLD.shape[1]
        self._tokens, self._features = [], []
        # The last block ends at n, wherever earlier blocks ended. Its first rows may have been read before: with one
        # decoder layer their keys and values are the same in any block, so only the queries are run again.
        known_BLD = torch.cat([self._tail_BLD, fresh_BLD], dim=1)
        self._tail_BLD = self._last(known_BLD, self.k - 1)
        block_BLD = self._last(known_BLD, max(fresh, self.k))
        rows = block_BLD.shape[1]
        self.cache.rewind(self.cache.length + fresh - rows)  # rows read before are written again in their place
        everything_TT = torch.ones(rows, rows, dtype=torch.bool, device=self.device)
        view = View(self.cache.length, torch.arange(rows, device=self.device), everything_TT)
        return self._last(self._attend(block_BLD, view, rows), self.k)

    def _mix_on(self, tokens_L: Tensor, features_LD: Tensor) -> Tensor:
        """Mix the next committed positions [1, L, D]."""
        mixed = self.runner.mix(self._embed(tokens_L[None]), features_LD[None].to(self.dtype), self._state)
        self._state = mixed.state
        return mixed.hidden_BLD

    def _attend(self, mixed_BLD: Tensor, view: View, block: int) -> Tensor:
        """Hidden states behind a pass over blocks of so many rows.

        Keys and values are written behind what the cache holds.
        """
        rows = mixed_BLD.shape[1]
        self.cache.reserve(rows)
        hidden_BLD = self.runner.attend(mixed_BLD, view, block, self.cache)
        self.cache.commit(range(rows))
        return hidden_BLD

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.embedding_VD[tokens].to(self.dtype)

    def _nothing(self) -> Tensor:
        return torch.empty(1, 0, self.embedding_VD.shape[1], dtype=self.dtype, device=self.device)

    @staticmethod
    def _last(whole_BLD: Tensor, count: int) -> Tensor:
        """The last positions, as many as there are."""
        return whole_BLD[:, max(0, whole_BLD.shape[1] - count) :]
