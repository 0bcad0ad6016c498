"""The tree of n nodes that accepts most, from rank paths.

The expected accepted length of a tree is the sum over its nodes of the chance that a rank path begins with the node's
path. A path's chance never exceeds its parent's. So the n most likely paths are a tree already, and no other tree of n
nodes accepts more: exact, for all depths together, with no assumption about their independence.

Chances of long paths rest on few drafts. They are drawn towards what depth and rank alone say, by a weight α that
cross-validation over texts chooses:

    chance(path) = chance(parent) · (begin with path + α · q(depth, rank)) / (begin with parent + α)

q(d, r) is the share of rank r among drafts that are right down to depth d − 1. All of this keeps chance(path) <=
chance(parent), so the n most likely paths remain a tree.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import islice

from falcon_cli.tree.shape import Path
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath

WEIGHTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Values of α to choose from."""
_FAINT = 0.1
"""Drafts that every rank is granted beside those seen."""
_JUDGED = 24
"""Nodes of the tree by which α is judged."""


@dataclass(frozen=True)
class PathProbabilities:
    """How likely a rank path begins with a given path."""

    drafts: int
    counts: Counter[Path]
    """Drafts that begin with each path; the empty path begins all."""
    width: int
    """Ranks are below this."""
    weight: float
    """α."""

    @classmethod
    def of(cls, paths: Iterable[RankPath], depth: int, width: int, weight: float) -> "PathProbabilities":
        """Count rank paths down to a depth; those whose end is unknown are left out."""
        counts: Counter[Path] = Counter()
        drafts = 0
        for one in paths:
            if one.complete:
                drafts += 1
                counts.update(one.ranks[:d] for d in range(min(depth, len(one.ranks)) + 1))
        return cls(drafts, counts, width, weight)

    @cached_property
    def _by_depth(self) -> dict[int, list[float]]:
        """q: depth of the parent → the chance of each rank below it."""
        seen: dict[int, Counter[int]] = {}
        reached: Counter[int] = Counter()
        for path, count in self.counts.items():
            reached[len(path)] += count
            if path:
                seen.setdefault(len(path) - 1, Counter())[path[-1]] += count
        return {
            depth: [
                (seen.get(depth, Counter())[rank] + _FAINT) / (count + _FAINT * self.width)
                for rank in range(self.width)
            ]
            for depth, count in reached.items()
        }

    def share(self, depth: int, rank: int) -> float:
        """q(depth, rank): the chance of a rank at a depth (from 1), its parent being right."""
        known = self._by_depth.get(depth - 1)
        return known[rank] if known else 1 / self.width

    def children(self, path: Path, probability: float) -> Iterator[tuple[float, Path]]:
        """The chance of each child of a path that has the chance given."""
        drafts = self.counts[path]
        for rank in range(self.width):
            child = (*path, rank)
            own = self.counts[child] + self.weight * self.share(len(child), rank)
            yield probability * own / (drafts + self.weight), child

    def probability(self, path: Path) -> float:
        """The chance that a rank path begins with this one."""
        probability = 1.0
        for depth, rank in enumerate(path):
            probability = next(islice(self.children(path[:depth], probability), rank, None))[0]
        return probability


@dataclass(frozen=True)
class ScoredPath:
    """A path and its chance."""

    path: Path
    probability: float


def likeliest(
    probabilities: PathProbabilities, nodes: int, depth: int, k: int, rows: int | None = None
) -> list[ScoredPath]:
    """The most likely paths, likeliest first: each beginning of the list is the best tree of its size.

    Args:
        odds: Of the rank paths.
        nodes: How many (the root, which is none of them, not counted).
        depth: Deepest level.
        k: Depths of a pass.
        rows: Most rows of a pass: at depths where a new pass begins, only so many nodes, the likeliest, get children.
    """
    heap = [(-probability, len(path), path) for probability, path in probabilities.children((), 1.0)]
    heapify(heap)
    found: list[ScoredPath] = []
    rows_at: Counter[int] = Counter()
    while heap and len(found) < nodes:
        negative, level, path = heappop(heap)
        found.append(ScoredPath(path, -negative))
        if level == depth:
            continue
        if level % k == 0:
            rows_at[level] += 1
            if rows is not None and rows_at[level] > rows:
                continue
        for probability, child in probabilities.children(path, -negative):
            heappush(heap, (-probability, level + 1, child))
    return found


def cross_validated(texts: Sequence[RankedText], depth: int, width: int, k: int, folds: int = 4) -> float:
    """The α whose trees accept most on texts that they were not made of."""
    parts = [texts[fold::folds] for fold in range(folds) if texts[fold::folds]]
    if len(parts) < 2:
        return WEIGHTS[len(WEIGHTS) // 2]

    def accepted(weight: float) -> int:
        total = 0
        for part in parts:
            probabilities = probabilities_of(
                [text for other in parts if other is not part for text in other], depth, width, weight
            )
            tree = {one.path for one in likeliest(probabilities, _JUDGED, depth, k)}
            total += sum(
                one.ranks[: d + 1] in tree for text in part for one in text.paths for d in range(len(one.ranks))
            )
        return total

    return max(WEIGHTS, key=accepted)


def probabilities_of(texts: Iterable[RankedText], depth: int, width: int, weight: float) -> PathProbabilities:
    """The odds that texts show."""
    return PathProbabilities.of((one for text in texts for one in text.paths), depth, width, weight)
