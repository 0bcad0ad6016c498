"""The likeliest paths of a tree, by best-first search.

A tree of n nodes accepts, on average, the sum over its nodes of the probability that a draft begins with the node's
path. No path is likelier than its parent, so the n likeliest paths are closed under "parent of": they are a tree, and
no other tree of n nodes accepts more. What makes a path likely is the caller's: counted drafts or a fixed model.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from falcon_cli.tree.shape import Path


@dataclass(frozen=True)
class ScoredPath:
    """A rank path and the probability that a draft begins with it."""

    path: Path
    probability: float


def likeliest(successors: Callable[[Path, float], Iterable[ScoredPath]], nodes: int) -> list[ScoredPath]:
    """The most likely paths, likeliest first: every beginning of the list is the best tree of its size.

    Args:
        successors: Called with each path taken, and its probability, in the order in which they are taken, the root
            `()` first. Gives the paths that may be taken from then on, none likelier than that path: all its children;
            or its first child and its next sibling, where ranks have no end.
        nodes: How many paths to take at most; the root is not counted.

    Of equally likely paths the shorter is taken first, then the one of lower ranks.
    """
    heap = [_entry(scored) for scored in successors((), 1.0)]
    heapify(heap)
    taken: list[ScoredPath] = []
    while heap and len(taken) < nodes:
        negative, _, path = heappop(heap)
        taken.append(ScoredPath(path, -negative))
        for scored in successors(path, -negative):
            heappush(heap, _entry(scored))
    return taken


def _entry(scored: ScoredPath) -> tuple[float, int, Path]:
    # heapq pops the smallest, so the probability is negated; length and path break ties.
    return -scored.probability, len(scored.path), scored.path
