"""Rank paths in, the probability of every path out, and from these the tree of n nodes that accepts most.

The expected accepted length of a tree is the sum over its nodes of the probability that a rank path begins with the
node's path. No path is likelier than its parent, so the n likeliest paths are a tree already, and no other tree of n
nodes accepts more: exact, for all depths together, with no assumption about their independence.

The probabilities of long paths rest on few drafts. They are drawn towards what depth and rank alone say, by a weight α
that cross-validation over texts chooses:

    (1)  P(path) = P(parent) · (begin with path + α · q(depth, rank)) / (begin with parent + α)

q(d, r) is the share of rank r among drafts that are right down to depth d − 1:

    (2)  q(d, r) = (right to depth d − 1, then rank r, + ε) / (right to depth d − 1, + ε · width)

(1) keeps P(path) <= P(parent), so the n likeliest paths remain a tree.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from falcon_cli.tree.likeliest import ScoredPath, likeliest
from falcon_cli.tree.shape import Path
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath

WEIGHTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Values of α to choose from."""
_PSEUDO_COUNT = 0.1
"""ε: additive smoothing, so that no rank has probability 0."""
_JUDGED_NODES = 24
"""Nodes of the trees by which values of α are compared."""


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
        """Count rank paths down to a depth."""
        counts: Counter[Path] = Counter()
        drafts = 0
        for rank_path in paths:
            # A path that the end of its text cut off would count as a miss where nobody knows of one.
            if rank_path.complete:
                drafts += 1
                counts.update(rank_path.ranks[:d] for d in range(min(depth, len(rank_path.ranks)) + 1))
        return cls(drafts, counts, width, weight)

    @cached_property
    def _shares_by_depth(self) -> dict[int, list[float]]:
        """Equation (2): the parent's depth → the share of each rank."""
        with_rank: dict[int, Counter[int]] = {}
        reached: Counter[int] = Counter()
        for path, count in self.counts.items():
            # `counts` holds every path with all its beginnings, so the paths of one length partition the drafts that
            # are right down to that depth: their counts add up to both terms of the fraction.
            reached[len(path)] += count
            if path:
                with_rank.setdefault(len(path) - 1, Counter())[path[-1]] += count
        return {
            depth: [
                (with_rank.get(depth, Counter())[rank] + _PSEUDO_COUNT) / (count + _PSEUDO_COUNT * self.width)
                for rank in range(self.width)
            ]
            for depth, count in reached.items()
        }

    def share(self, depth: int, rank: int) -> float:
        """q(depth, rank): the probability of a rank at a depth (from 1), given that its parent is right."""
        shares = self._shares_by_depth.get(depth - 1)
        return shares[rank] if shares else 1 / self.width  # where no draft ever came, all ranks are alike

    def children(self, path: Path, probability: float) -> Iterator[ScoredPath]:
        """Every child of a path that has this probability, by equation (1)."""
        drafts = self.counts[path]
        for rank in range(self.width):
            child = (*path, rank)
            smoothed = self.counts[child] + self.weight * self.share(len(child), rank)
            yield ScoredPath(child, probability * smoothed / (drafts + self.weight))

    def probability(self, path: Path) -> float:
        """The probability that a rank path begins with this path."""
        probability = 1.0
        for depth, rank in enumerate(path):
            probability = next(islice(self.children(path[:depth], probability), rank, None)).probability
        return probability


def likeliest_paths(
    probabilities: PathProbabilities, nodes: int, depth: int, k: int, rows: int | None = None
) -> list[ScoredPath]:
    """The most likely paths, likeliest first: each beginning of the list is the best tree of its size.

    Args:
        probabilities: Of the rank paths.
        nodes: How many; the root is not counted.
        depth: The deepest level.
        k: Depths of a pass.
        rows: Most rows of a pass: at a depth where a pass begins, only this many nodes, the likeliest, get children.
    """
    rows_at: Counter[int] = Counter()

    def children(path: Path, probability: float) -> Iterable[ScoredPath]:
        level = len(path)
        if level == depth:
            return ()
        # A node at a depth that k divides takes a row of the pass below it. The root's row is always there.
        if path and level % k == 0:
            # Nodes come likeliest first, so the first `rows` of a depth are its likeliest.
            rows_at[level] += 1
            if rows is not None and rows_at[level] > rows:
                return ()
        return probabilities.children(path, probability)

    return likeliest(children, nodes)


def cross_validated(texts: Sequence[RankedText], depth: int, width: int, k: int, folds: int = 4) -> float:
    """The α whose trees accept most on texts that they were not made of."""
    parts = [texts[fold::folds] for fold in range(folds) if texts[fold::folds]]
    # A single text cannot be held out: take a value in the middle.
    if len(parts) < 2:
        return WEIGHTS[len(WEIGHTS) // 2]

    def accepted(weight: float) -> int:
        total = 0
        for part in parts:
            others = [text for other in parts if other is not part for text in other]
            probabilities = probabilities_of(others, depth, width, weight)
            tree = {scored.path for scored in likeliest_paths(probabilities, _JUDGED_NODES, depth, k)}
            # A tree accepts the beginnings of a rank path that are in it.
            total += sum(
                rank_path.ranks[: d + 1] in tree
                for text in part
                for rank_path in text.paths
                for d in range(len(rank_path.ranks))
            )
        return total

    return max(WEIGHTS, key=accepted)  # of equally good values the smallest


def probabilities_of(texts: Iterable[RankedText], depth: int, width: int, weight: float) -> PathProbabilities:
    """The probabilities that the rank paths of texts give."""
    return PathProbabilities.of((rank_path for text in texts for rank_path in text.paths), depth, width, weight)
