"""The shape of a token tree: which node hangs under which, whatever tokens fill it.

Node 0 is the root, the known token that the target has not read yet. Every other node is named by its path of ranks:
the path (0, 2) is "the drafter's third choice, after its first choice". Paths [0], [1], [0,0], [0,1] draw

    node   0 ──┬── 1 ──┬── 3          parents    0 0 0 1 1
               │       └── 4          depths     0 1 1 2 2
               └── 2

    ancestors_TT (row may see column)     1 . . . .
                                          1 1 . . .
                                          1 . 1 . .
                                          1 1 . 1 .
                                          1 1 . . 1

Nodes are sorted breadth first, so parents always come before their children and a prefix of the nodes is a tree.
Shapes: T nodes (the root included).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from falcon_cli.errors import FalconError

Path = tuple[int, ...]


@dataclass(frozen=True)
class TreeShape:
    """A prefix-closed set of rank paths, sorted breadth first; build it with `from_paths` or `chain`."""

    paths: tuple[Path, ...]

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[int]], max_rank: int | None = None) -> "TreeShape":
        """Check and sort rank paths, given in any order.

        Args:
            paths: Each node's ranks from depth 1 down to its own depth; the root (an empty path) is implied.
            max_rank: Ranks must stay below this width, where given.

        Raises:
            FalconError: A path is empty, doubled, lacks its parent, or holds a rank that is negative or too large.
        """
        unsorted_paths = [tuple(path) for path in paths]
        for path in unsorted_paths:
            _check_ranks(path, max_rank)
        sorted_paths = sorted(unsorted_paths, key=lambda path: (len(path), path))
        known: set[Path] = {()}
        for path in sorted_paths:
            _check_place(path, known)
            known.add(path)
        return cls(tuple(sorted_paths))

    @classmethod
    def chain(cls, length: int) -> "TreeShape":
        """One branch of `length` first choices under the root."""
        return cls(tuple((0,) * depth for depth in range(1, length + 1)))

    def __len__(self) -> int:
        """Nodes, the root included."""
        return len(self.paths) + 1

    @cached_property
    def members(self) -> frozenset[Path]:
        """The paths, to look one up."""
        return frozenset(self.paths)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Each node's parent; the root is its own."""
        node_of: dict[Path, int] = {(): 0}
        node_of.update({path: node for node, path in enumerate(self.paths, start=1)})
        return (0, *(node_of[path[:-1]] for path in self.paths))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Each node's distance from the root."""
        return (0, *(len(path) for path in self.paths))

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Each node's rank among the drafter's choices after its parent; 0 for the root."""
        return (0, *(path[-1] for path in self.paths))

    @property
    def height(self) -> int:
        """Depth of the deepest node."""
        return self.depths[-1]

    def ancestors_TT(self) -> Tensor:
        """Boolean [T, T]: row t may see column s when s is t itself or lies on the way from the root to t."""
        return ancestors_of(self.parents)


@lru_cache(maxsize=256)
def ancestors_of(parents: tuple[int, ...]) -> Tensor:
    """Boolean [T, T] ancestor matrix of nodes sorted parents first (`parents[t] <= t`); treat it as read-only."""
    ancestors_TT = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != node:
            ancestors_TT[node] |= ancestors_TT[parent]
    return ancestors_TT


def depths_of(parents: Sequence[int]) -> tuple[int, ...]:
    """Depth of each of the nodes, sorted parents first."""
    depths: list[int] = []
    for node, parent in enumerate(parents):
        depths.append(0 if parent == node else depths[parent] + 1)
    return tuple(depths)


def last_of_path(parents: Sequence[int], node: int, k: int) -> list[int]:
    """The last k nodes of the path from the root to a node, the node last."""
    upwards = [node]
    while len(upwards) < k:
        upwards.append(parents[upwards[-1]])
    return upwards[::-1]


def _check_ranks(path: Path, max_rank: int | None) -> None:
    shown = list(path)
    if not path:
        raise FalconError("tree: an empty path; the root is implied, so leave it out")
    if any(not isinstance(rank, int) or rank < 0 for rank in path):
        raise FalconError(f"tree: path {shown} must hold whole ranks from 0")
    if max_rank is not None and max(path) >= max_rank:
        raise FalconError(f"tree: path {shown} asks for rank {max(path)}, but the drafter gives {max_rank} choices")


def _check_place(path: Path, known: set[Path]) -> None:
    shown = list(path)
    if path in known:
        raise FalconError(f"tree: path {shown} stands twice; remove one")
    if path[:-1] not in known:
        raise FalconError(f"tree: path {shown} has no parent; add {list(path[:-1])} or remove it")
