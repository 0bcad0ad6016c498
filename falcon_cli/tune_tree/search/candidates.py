"""The tree, the number of passes and the k that give most tokens a second.

    tokens a second = (1 + expected accepted) / (verify(nodes) + passes and their rows + rest)

For each drafter, number of passes and most rows of a pass, the likeliest paths are the best trees of every size; the
cost table prices them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.measure.cost_table import CostTable
from falcon_cli.tune_tree.measure.ranks import RankedText
from falcon_cli.tune_tree.search.probabilities import PathProbabilities, ScoredPath, likeliest, probabilities_of

SIZES = (*range(1, 17), 18, 20, 22, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Drafted nodes that are tried."""
_ROWS = (1, 2, 4, 8, None)
"""Most rows of a pass that are tried."""
_APART = 0.2
"""Trees whose sizes differ by less than this share are alike."""


@dataclass(frozen=True)
class DrafterProfile:
    """What a drafter is to the search."""

    k: int
    chained: bool
    texts: tuple[RankedText, ...]
    """Its rank paths on the calibration texts."""
    width: int
    weight: float
    """α of its odds."""

    def probabilities(self, depth: int) -> PathProbabilities:
        """On all texts."""
        return probabilities_of(self.texts, depth, self.width, self.weight)


@dataclass(frozen=True)
class TreeCandidate:
    """A tree with what is expected of it."""

    k: int
    passes: int
    rows: int | None
    """Most rows of a pass; None: as many as there are."""
    shape: TreeShape
    probabilities: tuple[float, ...]
    """Of each node to be reached, the root included."""
    tokens_per_cycle: float
    cycle_ms: float

    @property
    def nodes(self) -> int:
        """Drafted nodes."""
        return len(self.shape) - 1

    @property
    def tokens_per_second(self) -> float:
        """Expected."""
        return 1000 * self.tokens_per_cycle / self.cycle_ms


def candidates(
    profile: DrafterProfile, table: CostTable, context: float, nodes: int, passes: int
) -> list[TreeCandidate]:
    """The best trees of every size, number of passes and rows, each once.

    Args:
        drafting: The drafter.
        table: Prices.
        context: Tokens of the text before, on average.
        nodes: Most drafted nodes.
        passes: Most passes.
    """
    found: dict[tuple[tuple[int, ...], ...], TreeCandidate] = {}
    sizes = [size for size in SIZES if size <= nodes]
    for count in range(1, passes + 1):
        depth = count * profile.k
        path_probabilities = profile.probabilities(depth)
        for rows in _ROWS if count > 1 else (None,):
            best = likeliest(path_probabilities, sizes[-1], depth, profile.k, rows)
            for size in sizes[: sum(one <= len(best) for one in sizes)]:
                shape, probabilities = planted(best[:size])
                if shape.paths not in found:
                    found[shape.paths] = priced(shape, probabilities, profile, table, context, rows)
    return list(found.values())


def planted(paths: Sequence[ScoredPath]) -> tuple[TreeShape, tuple[float, ...]]:
    """A tree of these paths, and the chance of each of its nodes."""
    probability = {one.path: one.probability for one in paths}
    shape = TreeShape.from_paths(probability)
    return shape, (1.0, *(probability[path] for path in shape.paths))


def priced(
    shape: TreeShape,
    probabilities: tuple[float, ...],
    profile: DrafterProfile,
    table: CostTable,
    context: float,
    rows: int | None = None,
) -> TreeCandidate:
    """A tree with its expected tokens and its price."""
    passes = passes_of(shape, profile.k, profile.chained)
    cycle = table.cycle_ms(passes, len(shape), profile.k, context)
    return TreeCandidate(profile.k, len(passes), rows, shape, probabilities, sum(probabilities), cycle)


def frontier(found: Iterable[TreeCandidate]) -> list[TreeCandidate]:
    """The fastest candidate of each size, smallest first."""
    best: dict[int, TreeCandidate] = {}
    for one in found:
        if one.nodes not in best or one.tokens_per_second > best[one.nodes].tokens_per_second:
            best[one.nodes] = one
    return [best[size] for size in sorted(best)]


def finalists(found: Iterable[TreeCandidate], count: int = 3) -> list[TreeCandidate]:
    """The fastest candidates that are not alike (other passes, a clearly different size), and the best of each k."""
    return unlike(found, count, lambda one: one.passes)


class Sized(Protocol):
    """What may take part."""

    @property
    def k(self) -> int:
        """Of the drafter."""

    @property
    def nodes(self) -> int:
        """Drafted."""

    @property
    def tokens_per_second(self) -> float:
        """Expected."""


One = TypeVar("One", bound=Sized)


def unlike(found: Iterable[One], count: int, kind: Callable[[One], int]) -> list[One]:
    """The fastest that are of another kind or of a clearly different size than those before, and the best of each k."""

    def alike(one: One, other: One) -> bool:
        near = abs(one.nodes - other.nodes) <= max(1, _APART * max(one.nodes, other.nodes))
        return one.k == other.k and kind(one) == kind(other) and near

    chosen: list[One] = []
    for one in sorted(found, key=lambda one: -one.tokens_per_second):
        first_of_k = all(one.k != other.k for other in chosen)
        if first_of_k or (len(chosen) < count and not any(alike(one, other) for other in chosen)):
            chosen.append(one)
    return chosen


def predicted_tokens_per_cycle(profile: DrafterProfile, candidate: TreeCandidate, folds: int = 4) -> float:
    """Tokens per cycle of the decoding loop, foreseen fairly: on each text with a like tree made of the other texts."""
    emitted: list[int] = []
    depth = candidate.passes * profile.k
    parts = [profile.texts[fold::folds] for fold in range(min(folds, len(profile.texts)))]
    for part in parts:
        others = [text for other in parts if other is not part for text in other] or list(part)
        probabilities = probabilities_of(others, depth, profile.width, profile.weight)
        shape, _ = planted(likeliest(probabilities, candidate.nodes, depth, profile.k, candidate.rows))
        emitted += [tokens for text in part for tokens in text.walk(shape)]
    return sum(emitted) / len(emitted) if emitted else 1.0


def predicted(profile: DrafterProfile, found: Iterable[TreeCandidate]) -> list[TreeCandidate]:
    """Of each size and number of passes the best candidate, with what the loop is foreseen to give with it.

    The sum of a tree's chances counts every token of a text as the beginning of a draft. The loop begins fewer drafts
    where many tokens are accepted, so it gives less: here that is walked through.
    """
    by_passes: dict[int, list[TreeCandidate]] = {}
    for one in found:
        by_passes.setdefault(one.passes, []).append(one)
    return [
        replace(one, tokens_per_cycle=predicted_tokens_per_cycle(profile, one))
        for passes in sorted(by_passes)
        for one in frontier(by_passes[passes])
    ]
