"""The tree, the number of passes and the k that give most tokens a second.

    (1)  tokens a second = (1 + expected accepted) / (verify(nodes) + passes and their rows + rest)

For each drafter, number of passes and most rows of a pass, the likeliest paths are the best trees of every size. The
cost table prices them. The expected length ranks trees well and says too much of their speed: `predicted` walks the
decoding loop over the calibration texts instead.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from falcon_cli.costs.table import CostTable
from falcon_cli.tree.likeliest import ScoredPath
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.measure.ranks import RankedText
from falcon_cli.tune_tree.search.probabilities import PathProbabilities, likeliest_paths, probabilities_of

SIZES = (*range(1, 17), 18, 20, 22, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Numbers of drafted nodes to try."""
_ROWS = (1, 2, 4, 8, None)
"""Limits on the rows of a pass to try."""
_ALIKE = 0.2
"""Trees whose sizes differ by this share or less are alike."""


@dataclass(frozen=True)
class DrafterProfile:
    """What the search knows of a drafter."""

    k: int
    chained: bool
    texts: tuple[RankedText, ...]
    """Its rank paths on the calibration texts."""
    width: int
    """Ranks are below this."""
    weight: float
    """α of its path probabilities."""
    passes: int
    """Most passes of a draft."""

    def probabilities(self, depth: int) -> PathProbabilities:
        """The path probabilities that all texts give."""
        return probabilities_of(self.texts, depth, self.width, self.weight)


@dataclass(frozen=True)
class TreeCandidate:
    """A tree and its predicted speed."""

    k: int
    passes: int
    rows: int | None
    """Most rows of a pass; None: as many as there are."""
    shape: TreeShape
    probabilities: tuple[float, ...]
    """The probability that each node is reached, the root included."""
    tokens_per_cycle: float
    cycle_ms: float

    @property
    def nodes(self) -> int:
        """Drafted nodes."""
        return len(self.shape) - 1

    @property
    def tokens_per_second(self) -> float:
        """The predicted speed."""
        return 1000 * self.tokens_per_cycle / self.cycle_ms

    @property
    def name(self) -> str:
        """What the tree is called in tables and logs."""
        size = f"{self.nodes} node{'s'[: self.nodes > 1]}"
        return f"k = {self.k}, {size}, {self.passes} pass{'es' if self.passes > 1 else ''}"


def candidates(
    profile: DrafterProfile, table: CostTable, context: float, nodes: int, passes: int
) -> list[TreeCandidate]:
    """The best trees of every size, number of passes and rows, each once.

    Args:
        profile: The drafter.
        table: What cycles cost.
        context: Tokens of the text before a draft, on average.
        nodes: Most drafted nodes.
        passes: Most passes.
    """
    by_paths: dict[tuple[tuple[int, ...], ...], TreeCandidate] = {}
    sizes = [size for size in SIZES if size <= nodes]
    for count in range(1, passes + 1):
        depth = count * profile.k
        path_probabilities = profile.probabilities(depth)
        # A single pass has one row, the root's: there is nothing to limit.
        for rows in _ROWS if count > 1 else (None,):
            # Each beginning of the list is the best tree of its size, so one search serves all sizes.
            best = likeliest_paths(path_probabilities, sizes[-1], depth, profile.k, rows)
            for size in (size for size in sizes if size <= len(best)):
                shape, probabilities = tree_of(best[:size])
                # A small tree need not be as deep, or as wide, as it may be: keep the first limits that give it.
                if shape.paths not in by_paths:
                    by_paths[shape.paths] = priced(shape, probabilities, profile, table, context, rows)
    return list(by_paths.values())


def tree_of(paths: Sequence[ScoredPath]) -> tuple[TreeShape, tuple[float, ...]]:
    """The tree of these paths, and the probability of each of its nodes."""
    probability = {scored.path: scored.probability for scored in paths}
    shape = TreeShape.from_paths(probability)
    # Nodes are sorted breadth first, the paths by probability; the root is always reached.
    return shape, (1.0, *(probability[path] for path in shape.paths))


def priced(
    shape: TreeShape,
    probabilities: tuple[float, ...],
    profile: DrafterProfile,
    table: CostTable,
    context: float,
    rows: int | None = None,
) -> TreeCandidate:
    """A tree with its expected tokens per cycle and the cost of a cycle."""
    passes = passes_of(shape, profile.k, profile.chained)
    cycle_ms = table.cycle_ms(passes, len(shape), profile.k, context)
    # The numerator of (1): the root's probability of 1 stands for the bonus token.
    return TreeCandidate(profile.k, len(passes), rows, shape, probabilities, sum(probabilities), cycle_ms)


def frontier(trees: Iterable[TreeCandidate]) -> list[TreeCandidate]:
    """The fastest candidate of each size, smallest first."""
    best: dict[int, TreeCandidate] = {}
    for tree in trees:
        if tree.nodes not in best or tree.tokens_per_second > best[tree.nodes].tokens_per_second:
            best[tree.nodes] = tree
    return [best[size] for size in sorted(best)]


def finalists(trees: Iterable[TreeCandidate], count: int = 3) -> list[TreeCandidate]:
    """The fastest candidates that are not alike (other passes, a clearly different size), and the best of each k."""
    return distinct(trees, count, lambda tree: tree.passes)


class SizedCandidate(Protocol):
    """What `distinct` needs to know of a candidate."""

    @property
    def k(self) -> int:
        """The drafter's k."""

    @property
    def nodes(self) -> int:
        """Drafted nodes."""

    @property
    def tokens_per_second(self) -> float:
        """The predicted speed."""


AnyCandidate = TypeVar("AnyCandidate", bound=SizedCandidate)


def distinct(candidates: Iterable[AnyCandidate], count: int, kind: Callable[[AnyCandidate], int]) -> list[AnyCandidate]:
    """The fastest of those that differ in kind, or clearly in size, from faster ones, and the best of each k.

    Args:
        candidates: In any order.
        count: How many; the best of a k is added beyond that.
        kind: Candidates of different kinds are never alike.
    """

    def alike(candidate: AnyCandidate, other: AnyCandidate) -> bool:
        # Below ten nodes a fifth is less than a node or two: neighbouring sizes are alike all the same.
        near = abs(candidate.nodes - other.nodes) <= max(1, _ALIKE * max(candidate.nodes, other.nodes))
        return candidate.k == other.k and kind(candidate) == kind(other) and near

    chosen: list[AnyCandidate] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.tokens_per_second):
        first_of_k = all(candidate.k != other.k for other in chosen)
        if first_of_k or (len(chosen) < count and not any(alike(candidate, other) for other in chosen)):
            chosen.append(candidate)
    return chosen


def predicted_tokens_per_cycle(profile: DrafterProfile, candidate: TreeCandidate, folds: int = 4) -> float:
    """Tokens per cycle of the decoding loop, by cross-validation: on each text with a tree made of the other texts."""
    emitted: list[int] = []
    depth = candidate.passes * profile.k
    parts = [profile.texts[fold::folds] for fold in range(min(folds, len(profile.texts)))]
    for part in parts:
        # A single text has no others: its own must do.
        others = [text for other in parts if other is not part for text in other] or list(part)
        probabilities = probabilities_of(others, depth, profile.width, profile.weight)
        # Not the candidate itself, which was made of these texts too, but a tree of its size, passes and rows.
        shape, _ = tree_of(likeliest_paths(probabilities, candidate.nodes, depth, profile.k, candidate.rows))
        emitted += [tokens for text in part for tokens in text.walk(shape)]
    return sum(emitted) / len(emitted) if emitted else 1.0


def predicted(profile: DrafterProfile, trees: Iterable[TreeCandidate]) -> list[TreeCandidate]:
    """The best candidate of each size and number of passes, with the tokens per cycle that the loop will give.

    The sum of a tree's probabilities counts every token of a text as the beginning of a draft. The loop begins fewer
    drafts where many tokens are accepted, so it gives less: it is walked through here.
    """
    by_passes: dict[int, list[TreeCandidate]] = {}
    for tree in trees:
        by_passes.setdefault(tree.passes, []).append(tree)
    # The walk is slow, so only the best trees take it.
    return [
        replace(tree, tokens_per_cycle=predicted_tokens_per_cycle(profile, tree))
        for passes in sorted(by_passes)
        for tree in frontier(by_passes[passes])
    ]
