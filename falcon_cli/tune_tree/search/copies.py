"""The best copy policy for `falcon:copy=auto`: after how many repeated tokens, how many at a time, next to which tree.

    answer  … the cat sat on the | mat      copied  mat and the dog      right  1

A copied chain costs a forward of its nodes and no draft. Where there is nothing to copy, the fallback tree is drafted.
Both are known for every token of the calibration texts, so the decoding loop can be walked through for every policy. A
tree that is worth its price everywhere may not be worth it where the text says something new, and the other way round.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from falcon_cli.costs.table import CostTable
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.texts import GreedyText
from falcon_cli.tune_tree.search.candidates import DrafterProfile, TreeCandidate, frontier

NGRAMS = (1, 2, 3, 4)
"""Numbers of repeated tokens to try."""
LONGEST = 15
"""The most tokens to copy."""
_NEARLY = 0.99
"""Shorter copies are preferred where they give this share of the best speed."""
_HOPEFUL = 0.8
"""Trees that give less than this share of the best tree's tokens a second are not tried as fallbacks."""


@dataclass(frozen=True)
class CopiedRun:
    """What can be copied below one root."""

    tokens: int
    right: int
    """How many of them, from the first on, the answer continues with."""


@dataclass(frozen=True)
class CopyCandidate:
    """A copy policy and its predicted speed."""

    k: int
    """The fallback tree's drafter."""
    policy: CopyPolicy
    tokens_per_cycle: float
    cycle_ms: float

    @property
    def nodes(self) -> int:
        """Drafted nodes of the fallback tree."""
        return len(self.policy.shape.paths)

    @property
    def tokens_per_second(self) -> float:
        """The predicted speed."""
        return 1000 * self.tokens_per_cycle / self.cycle_ms

    @property
    def name(self) -> str:
        """What the policy is called in tables and logs."""
        nodes = f"{self.nodes or 'no'} node{'s'[: self.nodes != 1]}"
        return f"k = {self.k}, {nodes}, {self.policy.tokens} copied after {self.policy.ngram}"


@dataclass(frozen=True)
class FallbackTree:
    """A tree drafted where nothing can be copied, with what it does on the calibration texts."""

    k: int
    shape: TreeShape
    """Without paths the root alone: plain decoding."""
    cycle_ms: float
    accepted: tuple[tuple[int, ...], ...]
    """Accepted tokens: for each text, below each token."""

    @classmethod
    def of(cls, profile: DrafterProfile, shape: TreeShape, table: CostTable, context: float) -> "FallbackTree":
        """What a drafter's ranks and the costs say of a tree."""
        accepted = (tuple(text.accepted(place, shape) for place in range(len(text.paths))) for text in profile.texts)
        passes = passes_of(shape, profile.k, profile.chained)
        return cls(profile.k, shape, table.cycle_ms(passes, len(shape), profile.k, context), tuple(accepted))


CopiedRuns = Sequence[Sequence[CopiedRun]]
"""For each text, below each token."""


def copies_in(text: GreedyText, ngram: int) -> list[CopiedRun]:
    """What can be copied below each token of an answer but the last."""
    lookup = PromptLookup(torch.device("cpu"), PldOptions(max_ngram=ngram, min_ngram=ngram))
    lookup.reset(text.prompt.ids)
    runs = []
    for place, token in enumerate(text.answer[:-1]):
        # The lookup finds the longest copy; a policy's limit only cuts it, so one lookup serves all lengths.
        copied, ahead = lookup.copied(token, LONGEST), text.answer[place + 1 :]
        pairs = enumerate(zip(copied, ahead, strict=False))
        first_wrong = next((n for n, (guess, truth) in pairs if guess != truth), None)
        runs.append(CopiedRun(len(copied), min(len(copied), len(ahead)) if first_wrong is None else first_wrong))
    return runs


def walk(copies: Sequence[CopiedRun], accepted: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """Each cycle of the loop over one answer: tokens copied (0: the tree was drafted), tokens emitted.

    Args:
        copies: Below each token.
        accepted: What the tree accepts below each token.
        length: Tokens copied at most.
    """
    place, end = 0, len(accepted)
    while place < end:
        copied = min(length, copies[place].tokens)
        right = min(length, copies[place].right) if copied else accepted[place]
        # Every cycle yields the accepted tokens and the bonus token, but nothing past the answer's end.
        emitted = min(right + 1, end - place)
        yield copied, emitted
        place += emitted


def predict(
    fallback: FallbackTree, copies: CopiedRuns, ngram: int, length: int, table: CostTable, context: float
) -> CopyCandidate:
    """What the loop gives with this fallback tree and these copies.

    Args:
        fallback: The tree.
        copies: What can be copied after `ngram` repeated tokens.
        ngram: How many tokens must be repeated.
        length: Tokens copied at most.
        table: What cycles cost.
        context: Tokens before a draft, on average.
    """
    loops = [walk(*pair, length=length) for pair in zip(copies, fallback.accepted, strict=True)]
    cycles = [cycle for loop in loops for cycle in loop] or [(0, 1)]
    # The cost of a cycle by its number of copied tokens: a copy is verified, not drafted; its root is a node too.
    cost_ms = [fallback.cycle_ms, *(table.verify_ms(1 + n, context) + table.rest for n in range(1, length + 1))]
    return CopyCandidate(
        fallback.k,
        CopyPolicy(ngram, length, fallback.shape),
        tokens_per_cycle=sum(emitted for _, emitted in cycles) / len(cycles),
        cycle_ms=sum(cost_ms[copied] for copied, _ in cycles) / len(cycles),
    )


def best_length(
    fallback: FallbackTree, copies: CopiedRuns, ngram: int, table: CostTable, context: float
) -> CopyCandidate:
    """The shortest copies whose speed is nearly the best: long ones are rare, and few texts tell of them."""
    by_length = [predict(fallback, copies, ngram, length, table, context) for length in range(1, LONGEST + 1)]
    enough = _NEARLY * max(candidate.tokens_per_second for candidate in by_length)
    return next(candidate for candidate in by_length if candidate.tokens_per_second >= enough)


def copy_candidates(
    profile: DrafterProfile,
    trees: Iterable[TreeCandidate],
    answers: Sequence[GreedyText],
    table: CostTable,
    context: float,
) -> list[CopyCandidate]:
    """The best copies for every n-gram next to every tree that may pay, and next to none; fastest first.

    Args:
        profile: The drafter.
        trees: Trees for it, and perhaps for others.
        answers: The calibration texts, those that the drafter has ranks of.
        table: What cycles cost.
        context: Tokens before a draft, on average.
    """
    copies = {ngram: [copies_in(answer, ngram) for answer in answers] for ngram in NGRAMS}
    best_trees = frontier(tree for tree in trees if tree.k == profile.k)
    # Copies take over where a tree is at its best, so a tree that is far behind alone is no better next to them.
    enough = _HOPEFUL * max((tree.tokens_per_second for tree in best_trees), default=0.0)
    shapes = [TreeShape(()), *(tree.shape for tree in best_trees if tree.tokens_per_second >= enough)]
    fallbacks = [FallbackTree.of(profile, shape, table, context) for shape in shapes]
    best = [best_length(fallback, copies[n], n, table, context) for fallback in fallbacks for n in NGRAMS]
    return sorted(best, key=lambda candidate: -candidate.tokens_per_second)
