"""Trees grown again in every cycle: the nodes that the drafter itself finds likeliest (after EAGLE-2, Li et al. 2024).

A static tree is only a budget here: as many nodes, passes, rows of a pass and features that the head reads. Each depth
goes on from the likeliest nodes of the one before, by the sum of the drafter's log-probabilities on the way down; in
the end the likeliest nodes of all are kept. Sums only fall on the way down, so what is kept is a tree.

    root ─┬─ the −0.2 ─┬─ cat −0.9         budget 4: the, a, cat, dog
          │            └─ dog −1.4
          └─ a −1.8  ──── cat −3.0

Shapes: R rows of a pass, K slots of a row, E features that a depth goes on from, X best tokens of each, D hidden
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from falcon_cli.attention.view import View
from falcon_cli.core import Draft
from falcon_cli.drafters.falcon.network import LstmState
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.shared.tree_drafter import TreePlan
from falcon_cli.tree.passes import Slot
from falcon_cli.tree.shape import TreeShape, last_of_path


@dataclass
class _Grown:
    """The nodes so far; node 0 is the root."""

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [0])
    scores: list[float] = field(default_factory=lambda: [0.0])
    rows: list[int] = field(default_factory=lambda: [0])
    """The row, counted over all passes, in which each node's children are drafted, or their parent's were."""
    features: dict[int, Tensor] = field(default_factory=dict)
    """The feature [D] that a node's children were drafted from."""

    def add(self, parent: int, token: int, score: float) -> int:
        """A child."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(self.scores[parent] + score)
        self.rows.append(self.rows[parent])
        return len(self.tokens) - 1

    def likeliest(self, nodes: Sequence[int], count: int) -> list[int]:
        """The best of some nodes, in their own order."""
        return sorted(sorted(nodes, key=lambda node: -self.scores[node])[:count])

    def draft(self, count: int, device: torch.device) -> Draft:
        """The likeliest nodes as a draft."""
        kept = [0, *self.likeliest(range(1, len(self.tokens)), count)]
        place = {node: number for number, node in enumerate(kept)}
        return Draft.tree([self.tokens[node] for node in kept], [place[self.parents[node]] for node in kept], device)


class DynamicFalcon(Falcon):
    """Falcon that chooses its nodes as it goes; its tree is the budget."""

    @classmethod
    def of(cls, falcon: Falcon, budget: TreeShape) -> "DynamicFalcon":
        """A dynamic drafter that shares the weights of a static one."""
        return cls(falcon.network, falcon.target, budget, falcon.vocabulary_W, sharing=falcon)

    @torch.inference_mode()
    def propose(self, token: int, room: int) -> Draft:
        """See `Drafter`."""
        self.note_root(token)
        plan = self.plan(min(room, self.shape.height))
        grown = _Grown([token])
        if plan.passes:
            hidden_RKD = self._read_committed()
            committed = self.cache.length
            if hidden_RKD.shape[1] == self.k:
                self._grow(grown, plan, hidden_RKD)
            self.cache.rewind(committed)
        return grown.draft(len(plan.parents) - 1, self.device)

    def _grow(self, grown: _Grown, plan: TreePlan, hidden_RKD: Tensor) -> None:
        state, committed = self._state, self.cache.length
        rows = _Rows([0], [[0]])
        frontier = [0]
        for number, step in enumerate(plan.passes):
            # A further pass goes on from the likeliest nodes of the deepest level, as many as the budget has rows.
            if number > 0:
                nodes = grown.likeliest(frontier, len(step.parent_R))
                before = rows
                rows = before.below(grown, nodes)
                hidden_RKD, state = self._pass(grown, rows, before, state, committed)
            frontier = rows.nodes
            # In a block's first slot every row is expanded; in later slots the likeliest children, up to the budget.
            for place, slot in enumerate(step.slots):
                parents = frontier if place == 0 else grown.likeliest(frontier, len(slot.parents_J))
                frontier = self._expand(grown, parents, hidden_RKD, rows.first, place, slot)

    def _pass(
        self, grown: _Grown, rows: "_Rows", before: "_Rows", state: LstmState | None, committed: int
    ) -> tuple[Tensor, LstmState | None]:
        """Hidden states [R, K, D] behind the rows, and the mixer's state."""
        ways = [last_of_path(grown.parents, node, self.k) for node in rows.nodes]
        tokens_RK = torch.tensor([[grown.tokens[node] for node in way] for way in ways], device=self.device)
        above_RKD = torch.stack([torch.stack([grown.features[grown.parents[node]] for node in way]) for way in ways])
        # A row's mixer state goes on from its parent row, which is one of the pass before.
        parent_R = [row[-2] - before.first for row in rows.ways]
        if state is not None:
            state = (state[0][:, parent_R], state[1][:, parent_R])
        mixed = self.runner.mix(self._embed(tokens_RK), above_RKD, state)
        depth_Q, earlier_U = (places.to(self.device) for places in rows.depths(self.k))
        view = View(committed, depth_Q, rows.seen(self.k).to(self.device), earlier_U)
        hidden_LD = self._attend(mixed.hidden_BLD.flatten(0, 1)[None], view, self.k)
        return hidden_LD.view_as(mixed.hidden_BLD), mixed.state

    def _expand(
        self, grown: _Grown, parents: list[int], hidden_RKD: Tensor, first: int, place: int, slot: Slot
    ) -> list[int]:
        """Children of some nodes; returns them."""
        outputs_E = [(grown.rows[node] - first) * self.k + place for node in parents]
        before_ED = None
        if place:
            before_ED = self._embed(torch.tensor([grown.tokens[node] for node in parents], device=self.device))
        features_ED = self.runner.finish(hidden_RKD.flatten(0, 1)[outputs_E], before_ED)
        # Scores are log-probabilities summed on the way down (EAGLE-2, section 4.1), so children never beat parents.
        score_EX, ids_EX = self.head.likely(features_ED, slot.width)
        children = []
        for parent, feature_D, ids, scores in zip(
            parents, features_ED, ids_EX.tolist(), score_EX.tolist(), strict=True
        ):
            grown.features[parent] = feature_D
            children += [grown.add(parent, token, score) for token, score in zip(ids, scores, strict=True)]
        return children


@dataclass
class _Rows:
    """The rows of a pass; rows are counted over all passes, the root's is 0."""

    nodes: list[int]
    ways: list[list[int]]
    """For each row, the rows on the way to it, itself the last."""
    first: int = 0
    """Number of the first of them."""
    passes: list[int] = field(default_factory=list)
    """For each row up to the last of them, the root's left out, its pass, counted from 0 for the second."""

    def below(self, grown: _Grown, nodes: list[int]) -> "_Rows":
        """The rows of the next pass, one for each of these nodes."""
        first = self.first + len(self.nodes)
        ways = [[*self.ways[grown.rows[node] - self.first], first + row] for row, node in enumerate(nodes)]
        for row, node in enumerate(nodes):
            grown.rows[node] = first + row
        return _Rows(nodes, ways, first, self.passes + [len(self.ways[0]) - 1] * len(nodes))

    def depths(self, k: int) -> tuple[Tensor, Tensor]:
        """Depths, from 0, of the rows' positions, and of those of earlier passes."""
        # A row of pass p + 2 (`number` is p) writes k positions, p·k … p·k + k − 1 from the first uncommitted one.
        depths = torch.tensor([k * number + slot for number in self.passes for slot in range(k)], dtype=torch.long)
        before = k * (self.first - 1)
        return depths[before:], depths[:before]

    def seen(self, k: int) -> Tensor:
        """Boolean [R·K, C]: which uncommitted positions each position sees."""
        total = self.first + len(self.nodes)
        seen_RR = torch.zeros(len(self.nodes), total, dtype=torch.bool)
        for row, way in enumerate(self.ways):
            seen_RR[row, way] = True
        return seen_RR[:, 1:].repeat_interleave(k, 0).repeat_interleave(k, 1)
