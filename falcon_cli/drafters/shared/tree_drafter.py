"""Drafters that fill a fixed tree from features: what Falcon, EAGLE and Medusa have in common.

The tree is cut into passes once; a drafter runs them one by one, each making features, of which the LM head makes
tokens for the nodes of a slot. Shapes: T nodes, F nodes that a slot fills, E features that the head reads, D hidden
size, X best tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.core import WIDEST_DRAFT, Draft, Scores, Verdict
from falcon_cli.drafters.shared.head import Head
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.tree.passes import Pass, Slot, moved, passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import ranked

Choose = Callable[[Tensor, Slot], Tensor]
"""Features [E, D] and the slot that they are for → the tokens [N] of its nodes."""


@dataclass(frozen=True)
class TreeOptions:
    """Settings of a drafter with a tree."""

    drafter: str | None = None
    """Folder of the drafter; None takes --drafter, else the one shipped for the target."""
    tree: str | None = None
    """JSON file of the tree, auto, chain or dynamic; None takes --tree."""
    depth: int = 0
    """Deepest level of the tree kept; 0 is all."""
    nodes: int = 0
    """Drafted nodes of the tree kept, breadth first; 0 is all."""

    def __post_init__(self) -> None:
        if self.depth < 0 or self.nodes < 0:
            raise UsageError("a tree needs depth >= 0 and nodes >= 0")

    def trim(self, shape: TreeShape) -> TreeShape:
        """The part of a tree that these settings keep."""
        paths = [path for path in shape.paths if not self.depth or len(path) <= self.depth]
        return TreeShape(tuple(paths[: self.nodes] if self.nodes else paths))


@dataclass(frozen=True)
class TreePlan:
    """A tree on the device, and the passes that draft it."""

    parents: tuple[int, ...]
    depth_T: Tensor
    ancestors_TT: Tensor
    passes: tuple[Pass, ...]

    @classmethod
    def of(cls, shape: TreeShape, k: int, chained: bool, device: torch.device) -> "TreePlan":
        """Everything that no token changes, computed once."""
        depth_T = torch.tensor(shape.depths, dtype=torch.long, device=device)
        passes = tuple(moved(one, device) for one in passes_of(shape, k, chained))
        return cls(shape.parents, depth_T, shape.ancestors_TT().to(device), passes)


class TreeDrafter(ABC):
    """A tree drafted k depths a pass.

    Args:
        k: Tokens a pass.
        head: The LM head on the draft vocabulary.
        device: The device of tokens and features.
        choose: Fills a slot's nodes; None takes the best candidates.
    """

    chained = False
    """Whether a slot's features depend on the tokens drafted in the slot before."""
    deepest: int | None = None
    """Deepest level that it can draft; None is any."""

    def __init__(self, k: int, head: Head, device: torch.device, choose: Choose | None = None):
        self.k, self.head, self.device = k, head, device
        self.choices = head.choices
        self.choose: Choose = choose or self.candidates

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """See `Drafter`; the prompt's words may be drafted."""
        self.head.reset(prompt_L.tolist())

    @abstractmethod
    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """See `Drafter`."""

    @abstractmethod
    def passes(self, plan: TreePlan, tokens_T: Tensor) -> Iterator[Tensor]:
        """Run the passes one by one, each filling its nodes' tokens; none where the text is too short for a draft.

        Yields:
            Features [T, D] so far: at a node, the one that its children are drafted from.
        """

    def most_passes(self, wanted: int) -> int:
        """As many passes as wanted, or as it can draft."""
        return wanted if self.deepest is None else min(wanted, self.deepest // self.k)

    def note_root(self, token: int) -> None:
        """Note the next root, even when another drafter proposes; from now on its token may be drafted."""
        self.head.admit([token])

    @torch.inference_mode()
    def propose(self, token: int, room: int) -> Draft:
        """Draft the tree as far as `room` reaches; the root alone while the text is too short."""
        self.note_root(token)
        plan = self.plan(min(room, self.shape.height))
        tokens_T = torch.empty(len(plan.parents), dtype=torch.long, device=self.device)
        tokens_T[0] = token
        if len(tokens_T) > 1 and sum(1 for _ in self.passes(plan, tokens_T)) == 0:
            return Draft.chain([token], self.device)
        return Draft(tokens_T, plan.parents, plan.depth_T, plan.ancestors_TT)

    def candidates(self, features_ED: Tensor, slot: Slot) -> Tensor:
        """The tokens [N] of the nodes that a slot drafts."""
        return self.best(features_ED, slot.width).flatten()[slot.choice_F]

    def best(self, features_ED: Tensor, count: int) -> Tensor:
        """The likeliest tokens [E, K] behind each feature, best first."""
        return self.head.best(features_ED, count)

    @abstractmethod
    def with_tree(self, shape: TreeShape, choose: Choose | None = None) -> "TreeDrafter":
        """The same drafter with another tree, for a text of its own.

        Weights and LM head are shared. The head knows the extra tokens of the text that was started last, so drafters
        that share one must not take turns within a text; `start` resets it.

        Args:
            shape: The tree.
            choose: Fills nodes with other tokens than the best ones.

        Raises:
            FalconError: As for the drafter itself.
        """

    def set_tree(self, shape: TreeShape) -> None:
        """Start again with a tree.

        Raises:
            FalconError: It asks for more candidates than there are, or is too deep, or too wide for the target's cache.
        """
        wanted = 1 + max(shape.ranks)
        if wanted > self.choices:
            raise FalconError(f"the tree asks for {wanted} candidates, the draft vocabulary has {self.choices} tokens")
        if self.deepest is not None and shape.height > self.deepest:
            raise FalconError(
                f"the tree is {shape.height} deep, this drafter drafts {self.deepest}: keep less with depth=N"
            )
        if len(shape) > WIDEST_DRAFT:
            raise FalconError(f"the tree has {len(shape)} nodes, {WIDEST_DRAFT} is the most; keep fewer with nodes=N")
        self.shape = shape
        self._kept = len(shape.paths)
        self._order = ranked(shape, self.k)
        self._place = {scored.path: number for number, scored in enumerate(self._order)}
        self._parts: dict[int, TreeShape] = {}
        self._plans: dict[tuple[int, int], TreePlan] = {}

    def part(self, nodes: int) -> TreeShape:
        """The likeliest nodes of the tree, so many, as far as a fixed model knows."""
        if nodes not in self._parts:
            self._parts[nodes] = TreeShape.from_paths(scored.path for scored in self._order[:nodes])
        return self._parts[nodes]

    def expected(self, nodes: int) -> float:
        """How many tokens of such a part are right on average, by the same model."""
        return sum(scored.probability for scored in self._order[:nodes])

    def keep(self, nodes: int) -> None:
        """Draft only the likeliest nodes of the tree, so many, from now on."""
        self._kept = min(nodes, len(self.shape.paths))

    def accepted_of(self, path: Sequence[int], sizes: Iterable[int]) -> dict[int, int]:
        """Drafted nodes → how many tokens a part of that size would have accepted, where the part kept accepted `path`.

        Args:
            path: Nodes of the last draft, the root first.
            sizes: None larger than the part kept.
        """
        drafted = self.part(self._kept).paths
        places = [self._place[drafted[node - 1]] for node in path[1:]]  # ascending: no node is likelier than its parent
        return {size: sum(place < size for place in places) for size in sizes}

    def plan(self, depth: int) -> TreePlan:
        """The tree, or what is kept of it, down to a depth (0: the root alone)."""
        key = depth, self._kept
        if key not in self._plans:
            shape = TreeOptions(depth=depth).trim(self.part(self._kept)) if depth else TreeShape(())
            self._plans[key] = TreePlan.of(shape, self.k, self.chained, self.device)
        return self._plans[key]
