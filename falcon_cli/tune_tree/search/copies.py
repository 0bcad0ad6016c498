"""How `falcon:copy=auto` had best copy: after how many repeated tokens, how many at a time, beside which tree.

    answer  … the cat sat on the | mat      copied  mat and the dog      right  1

A copied chain costs a forward of so many nodes and no draft; where there is nothing to copy, the tree is drafted. Both
are known for every token of the calibration texts, so the loop can be walked through for every choice. A tree that is
worth its price everywhere need not be worth it where the text says something new, nor the other way round.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.cost_table import CostTable
from falcon_cli.tune_tree.measure.texts import GreedyText
from falcon_cli.tune_tree.search.candidates import DrafterProfile, TreeCandidate, frontier

NGRAMS = (1, 2, 3, 4)
LONGEST = 15
_NEARLY = 0.99
_HOPEFUL = 0.8
"""Trees that give less than this share of the best one's tokens a second are not tried beside copies."""


@dataclass(frozen=True)
class CopiedRun:
    """What is copied below one root."""

    tokens: int
    right: int
    """How many of them, from the first on, the answer goes on with."""


@dataclass(frozen=True)
class CopyCandidate:
    """A way of copying with what is expected of it."""

    k: int
    """Of the drafter beside it."""
    copying: CopyPolicy
    tokens_per_cycle: float
    cycle_ms: float

    @property
    def nodes(self) -> int:
        """Of the tree."""
        return len(self.copying.shape.paths)

    @property
    def tokens_per_second(self) -> float:
        """Expected."""
        return 1000 * self.tokens_per_cycle / self.cycle_ms


@dataclass(frozen=True)
class FallbackTree:
    """A tree that may be drafted where nothing is copied, on the calibration texts."""

    k: int
    shape: TreeShape
    """Without paths the root alone."""
    cycle_ms: float
    accepted: tuple[tuple[int, ...], ...]
    """Of each text, below each token."""

    @classmethod
    def of(cls, profile: DrafterProfile, shape: TreeShape, table: CostTable, context: float) -> "FallbackTree":
        """What a drafter's ranks and the costs say of a tree."""
        accepted = (tuple(text.accepted(place, shape) for place in range(len(text.paths))) for text in profile.texts)
        passes = passes_of(shape, profile.k, profile.chained)
        return cls(profile.k, shape, table.cycle_ms(passes, len(shape), profile.k, context), tuple(accepted))


Copies = Sequence[Sequence[CopiedRun]]
"""Of each text, below each token."""


def copies_in(text: GreedyText, ngram: int) -> list[CopiedRun]:
    """What is copied below each token of an answer but the last."""
    lookup = PromptLookup(torch.device("cpu"), PldOptions(max_ngram=ngram, min_ngram=ngram))
    lookup.reset(text.prompt.ids)
    found = []
    for place, token in enumerate(text.answer[:-1]):
        copied, ahead = lookup.copied(token, LONGEST), text.answer[place + 1 :]
        right = next((n for n, pair in enumerate(zip(copied, ahead, strict=False)) if pair[0] != pair[1]), None)
        found.append(CopiedRun(len(copied), min(len(copied), len(ahead)) if right is None else right))
    return found


def walk(copies: Sequence[CopiedRun], accepted: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """Each cycle of the loop over one answer: tokens copied (0: the tree was drafted), tokens emitted.

    Args:
        copies: Below each token.
        accepted: Of the tree, below each token.
        length: Tokens copied at most.
    """
    place, end = 0, len(accepted)
    while place < end:
        copied = min(length, copies[place].tokens)
        right = min(length, copies[place].right) if copied else accepted[place]
        emitted = min(right + 1, end - place)
        yield copied, emitted
        place += emitted


def expected(
    fallback: FallbackTree, copies: Copies, way: tuple[int, int], table: CostTable, context: float
) -> CopyCandidate:
    """What the loop gives with this tree and these copies.

    Args:
        beside: The tree.
        copies: What can be copied after so many tokens.
        way: That number, and how many are copied at most.
        table: What cycles cost.
        context: Tokens before a draft, on average.
    """
    ngram, length = way
    loops = [walk(*pair, length=length) for pair in zip(copies, fallback.accepted, strict=True)]
    cycles = [cycle for loop in loops for cycle in loop] or [(0, 1)]
    price = [fallback.cycle_ms, *(table.verify_ms(1 + n, context) + table.rest for n in range(1, length + 1))]
    return CopyCandidate(
        fallback.k,
        CopyPolicy(ngram, length, fallback.shape),
        tokens_per_cycle=sum(emitted for _, emitted in cycles) / len(cycles),
        cycle_ms=sum(price[copied] for copied, _ in cycles) / len(cycles),
    )


def best_length(fallback: FallbackTree, copies: Copies, ngram: int, table: CostTable, context: float) -> CopyCandidate:
    """The shortest copies that give nearly most tokens a second: long ones are rare, and few texts tell of them."""
    found = [expected(fallback, copies, (ngram, length), table, context) for length in range(1, LONGEST + 1)]
    enough = _NEARLY * max(one.tokens_per_second for one in found)
    return next(one for one in found if one.tokens_per_second >= enough)


def copy_candidates(
    profile: DrafterProfile,
    found: Iterable[TreeCandidate],
    answers: Sequence[GreedyText],
    table: CostTable,
    context: float,
) -> list[CopyCandidate]:
    """The best copies for every n-gram beside every tree that may pay, and beside none; fastest first.

    Args:
        drafting: The drafter.
        found: Trees for it.
        answers: The calibration texts, those that the drafter has ranks of.
        table: What cycles cost.
        context: Tokens before a draft, on average.
    """
    copies = {ngram: [copies_in(answer, ngram) for answer in answers] for ngram in NGRAMS}
    trees = frontier(one for one in found if one.k == profile.k)
    enough = _HOPEFUL * max((one.tokens_per_second for one in trees), default=0.0)
    shapes = [TreeShape(()), *(one.shape for one in trees if one.tokens_per_second >= enough)]
    fallback = [FallbackTree.of(profile, shape, table, context) for shape in shapes]
    best = (best_length(one, copies[ngram], ngram, table, context) for one in fallback for ngram in NGRAMS)
    return sorted(best, key=lambda one: -one.tokens_per_second)


def name_of(one: CopyCandidate) -> str:
    """What a way of copying is called in tables and logs."""
    way = one.copying
    nodes = f"{one.nodes or 'no'} node{'s'[: one.nodes != 1]}"
    return f"k = {one.k}, {nodes}, {way.tokens} copied after {way.ngram}"
