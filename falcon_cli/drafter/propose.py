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

Shapes: A new committed positions, L positions, R rows, K slots, D hidden size, W draft vocabulary, E outputs that the
head reads, T nodes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.attention.view import View
from falcon_cli.core import WIDEST_DRAFT, Draft, Scores, Verdict
from falcon_cli.drafter.engine import engine_of
from falcon_cli.drafter.network import DrafterNetwork, LstmState
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.kv_cache import StaticCache
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import Pass, Slot, moved, passes_of, positions_of
from falcon_cli.tree.shape import TreeShape

Choose = Callable[[Tensor, Slot], Tensor]
"""Features [E, D] and the slot that they are for → the tokens [N] of its nodes."""


@dataclass(frozen=True)
class FalconOptions:
    """Settings of Falcon."""

    drafter: str | None = None
    """Folder of the drafter; None takes --drafter, else the one shipped for the target."""
    tree: str | None = None
    """JSON file of the tree, auto or dynamic; None takes --tree."""
    depth: int = 0
    """Deepest level of the tree kept; 0 is all."""
    nodes: int = 0
    """Drafted nodes of the tree kept, breadth first; 0 is all."""
    copy: int = 0
    """Length of an n-gram after whose repetition what followed it is drafted instead; 0 is never."""

    def __post_init__(self) -> None:
        if self.depth < 0 or self.nodes < 0 or self.copy < 0:
            raise UsageError("falcon: needs depth >= 0, nodes >= 0 and copy >= 0")

    def trim(self, shape: TreeShape) -> TreeShape:
        """The part of a tree that these settings keep."""
        paths = [path for path in shape.paths if not self.depth or len(path) <= self.depth]
        return TreeShape(tuple(paths[: self.nodes] if self.nodes else paths))


@dataclass(frozen=True)
class Plan:
    """A tree on the device, and the passes that draft it."""

    parents: tuple[int, ...]
    depth_T: Tensor
    ancestors_TT: Tensor
    passes: tuple[Pass, ...]

    @classmethod
    def of(cls, shape: TreeShape, k: int, chained: bool, device: torch.device) -> "Plan":
        """Everything that no token changes, computed once."""
        depth_T = torch.tensor(shape.depths, dtype=torch.long, device=device)
        passes = tuple(moved(one, device) for one in passes_of(shape, k, chained))
        return cls(shape.parents, depth_T, shape.ancestors_TT().to(device), passes)


class Falcon:
    """A tree drafted by Falcon's network.

    Args:
        network: The drafter; its attention is switched to the target's backend, or its layers to the target's kernels.
        target: The target it was distilled from; embedding and LM head are its own.
        shape: The tree.
        vocabulary_W: Ascending ids of the tokens that may be drafted; None is all.

    Raises:
        FalconError: The tree asks for more candidates than there are, or is too wide for the target's cache.
    """

    def __init__(
        self, network: DrafterNetwork, target: TargetModel, shape: TreeShape, vocabulary_W: Tensor | None = None
    ):
        self.k, self.chained, self.device = network.k, network.chained, target.device
        self.dtype = next(network.parameters()).dtype
        self.vocabulary_W = None if vocabulary_W is None else vocabulary_W.to(self.device)
        self.embedding_VD: Tensor = target.model.get_input_embeddings().weight
        head_VD: Tensor = target.head.weight
        head_WD = (head_VD if self.vocabulary_W is None else head_VD[self.vocabulary_W]).to(self.dtype)
        self.engine = engine_of(network, target, head_WD)
        self.chunk, self.choices = target.chunk, len(head_WD)
        self._context, self._head_shape = target.context_limit, target.cache.buffer_PCBGSH.shape
        self.choose: Choose = self.candidates
        self._plant(shape)

    def _plant(self, shape: TreeShape) -> None:
        """Begin anew with a tree."""
        _check(shape, self.choices)
        self.shape = shape
        self._plans: dict[int, Plan] = {}
        self.cache = StaticCache(
            layers=1,
            kv_heads=self._head_shape[3],
            head_size=self._head_shape[-1],
            limit=self._context + positions_of(self._plan(shape.height).passes),
            dtype=self.dtype,
            device=self.device,
        )
        self._state: LstmState | None = None
        """The mixer's, after the last committed position."""
        self._tail_BLD = self._nothing()
        """The mixer's outputs at the last k−1 committed positions."""
        self._tokens: list[int] = []
        """Tokens of the pending positions: the root, or accepted ones."""
        self._features: list[Tensor] = []
        """The target's features that go with them, each of the token before."""

    def with_tree(self, shape: TreeShape, choose: Choose | None = None, kind: "type[Falcon] | None" = None) -> "Falcon":
        """The same drafter with another tree: weights are shared, what it has read is not.

        Args:
            shape: The tree.
            choose: Fills nodes with other tokens than the best ones.
            kind: Another way to draft with it.

        Raises:
            FalconError: As above.
        """
        kind = kind or type(self)
        other = kind.__new__(kind)
        other.__dict__.update(self.__dict__)
        other.choose = choose or other.candidates
        other._plant(shape)
        return other

    @torch.inference_mode()
    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Read the prompt: every position but its last, whose token, the root, comes with `propose`."""
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

    @torch.inference_mode()
    def propose(self, token: int, room: int) -> Draft:
        """Draft the tree as far as `room` reaches; the root alone while the text is shorter than a block."""
        self._tokens.append(token)
        plan = self._plan(min(room, self.shape.height))
        tokens_T = torch.empty(len(plan.parents), dtype=torch.long, device=self.device)
        tokens_T[0] = token
        if len(tokens_T) > 1 and sum(1 for _ in self.passes(plan, tokens_T)) == 0:
            return Draft.chain([token], self.device)
        return Draft(tokens_T, plan.parents, plan.depth_T, plan.ancestors_TT)

    def skip(self, token: int) -> None:
        """Somebody else drafts under this root."""
        self._tokens.append(token)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Keep the accepted tokens and the target's features of the root and them, for the next pass 1."""
        self._tokens.extend(verdict.accepted)
        self._features.append(scores.features_TD[verdict.path_A])

    def passes(self, plan: Plan, tokens_T: Tensor) -> Iterator[Tensor]:
        """Run the passes one by one, each filling its nodes' tokens.

        Yields:
            Features [T, D] so far: at a node, the one that its children are drafted from.
        """
        hidden_RKD = self._read_committed()
        state, committed = self._state, self.cache.length
        if hidden_RKD.shape[1] < self.k:
            return
        features_TD = hidden_RKD.new_zeros(len(tokens_T), hidden_RKD.shape[-1])
        try:
            for number, step in enumerate(plan.passes):
                if number > 0:
                    mixed = self.engine.mix(
                        self._embed(tokens_T[step.block_RK]),
                        features_TD[step.above_RK],
                        None if state is None else (state[0][:, step.parent_R], state[1][:, step.parent_R]),
                    )
                    view = View(committed, step.depth_Q, step.ancestors_QC, step.earlier_U)
                    hidden_RKD = self._attend(mixed.hidden_BLD.flatten(0, 1)[None], view, self.k).view_as(
                        mixed.hidden_BLD
                    )
                    state = mixed.state
                for place, slot in enumerate(step.slots):
                    before_ED = self._embed(tokens_T[slot.said_E]) if place else None
                    features_ED = self.engine.finish(hidden_RKD.flatten(0, 1)[slot.output_E], before_ED)
                    features_TD[slot.parents_P] = features_ED[slot.feature_P]
                    tokens_T[slot.begin : slot.end] = self.choose(features_ED, slot)
                yield features_TD
        finally:
            self.cache.rewind(committed)

    def candidates(self, features_ED: Tensor, slot: Slot) -> Tensor:
        """The tokens [N] of the nodes that a slot drafts."""
        best_N = self.engine.best(features_ED, slot.width).flatten()[slot.choice_N]
        return best_N if self.vocabulary_W is None else self.vocabulary_W[best_N]

    def _read_committed(self) -> Tensor:
        """Pass 1: read what was accepted since the last one; returns the hidden states behind the last block [1, K, D].

        The block is shorter while the text is shorter than k positions.
        """
        fresh_BLD = self._mix_on(torch.tensor(self._tokens, device=self.device), torch.cat(self._features))
        fresh = fresh_BLD.shape[1]
        self._tokens, self._features = [], []
        known_BLD = torch.cat([self._tail_BLD, fresh_BLD], dim=1)
        self._tail_BLD = self._last(known_BLD, self.k - 1)
        block_BLD = self._last(known_BLD, max(fresh, self.k))
        rows = block_BLD.shape[1]
        self.cache.rewind(self.cache.length + fresh - rows)
        everything_TT = torch.ones(rows, rows, dtype=torch.bool, device=self.device)
        view = View(self.cache.length, torch.arange(rows, device=self.device), everything_TT)
        return self._last(self._attend(block_BLD, view, rows), self.k)

    def _mix_on(self, tokens_L: Tensor, features_LD: Tensor) -> Tensor:
        """Mix the next committed positions [1, L, D]."""
        mixed = self.engine.mix(self._embed(tokens_L[None]), features_LD[None].to(self.dtype), self._state)
        self._state = mixed.state
        return mixed.hidden_BLD

    def _attend(self, mixed_BLD: Tensor, view: View, block: int) -> Tensor:
        """Hidden states behind a pass over blocks of so many rows.

        Keys and values are written behind what the cache holds.
        """
        rows = mixed_BLD.shape[1]
        self.cache.reserve(rows)
        hidden_BLD = self.engine.attend(mixed_BLD, view, block, self.cache)
        self.cache.commit(range(rows))
        return hidden_BLD

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.embedding_VD[tokens].to(self.dtype)

    def _plan(self, depth: int) -> Plan:
        if depth not in self._plans:
            shape = FalconOptions(depth=depth).trim(self.shape) if depth else TreeShape(())
            self._plans[depth] = Plan.of(shape, self.k, self.chained, self.device)
        return self._plans[depth]

    def _nothing(self) -> Tensor:
        return torch.empty(1, 0, self.embedding_VD.shape[1], dtype=self.dtype, device=self.device)

    @staticmethod
    def _last(whole_BLD: Tensor, count: int) -> Tensor:
        """The last positions, as many as there are."""
        return whole_BLD[:, max(0, whole_BLD.shape[1] - count) :]


def _check(shape: TreeShape, choices: int) -> None:
    wanted = 1 + max(shape.ranks)
    if wanted > choices:
        raise FalconError(f"the tree asks for {wanted} candidates, the draft vocabulary has {choices} tokens")
    if len(shape) > WIDEST_DRAFT:
        raise FalconError(f"the tree has {len(shape)} nodes, {WIDEST_DRAFT} is the most; keep fewer with nodes=N")
