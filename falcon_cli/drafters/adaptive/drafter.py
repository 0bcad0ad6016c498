"""A drafter that asks before each draft whether it is worth its time: a copy, a tree, how large, or nothing.

What a cycle gives and takes is known from what cycles of late have given and taken:

    copies      how often the first, second, … copied token was right, by how many tokens had occurred before
    trees       how many tokens nested trees of several sizes accepted
    time        a table of costs, by nodes and context, times how much longer cycles really take

The best draft is that of the largest   tokens − rate · ms,   the rate being what all cycles of late have given a
millisecond: a cycle that beats it makes the text come faster (the rule of average-reward decisions: Howard, "Dynamic
Programming and Markov Processes", 1960). Copies are compared with the text even where they are
not drafted. A tree must be drafted to learn anything, so a small one is tried now and then, ever more seldom.

Nothing here changes what is said where each row of the target is computed by itself; elsewhere drafts must not depend
on time, and this drafter is not for them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Literal, get_args

from torch import Tensor

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.drafters.adaptive.odds import ChainOdds, Paces, Speed, TreeOdds
from falcon_cli.drafters.rivals.pld import PromptLookup
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter

LONGEST_COPY = 15
"""Most tokens of a copy."""
_COPY_PRIORS = {1: (0.35, 0.7), 2: (0.6, 0.8), 3: (0.75, 0.85), 4: (0.8, 0.88)}
"""Repeated tokens → how likely the first copied token is right, and each later one."""
_CONTEXTS = 64
"""Costs are asked for once for so many lengths of the text."""
_PATIENCE, _MOST_PATIENCE = 8, 128
"""Cycles without a tree before one is tried: at first, and after it has failed again and again."""
_STRAY = 3.0
"""A cycle that takes this many times as long as expected says no more than one that takes exactly so."""
_LENGTHS = (1, 2, 3, 5, 7, 10, LONGEST_COPY)
"""Lengths of copies, beside all that there is."""
Kind = Literal["none", "copy", "tree"]
"""What a cycle drafts."""


@dataclass(frozen=True)
class CycleCosts:
    """What cycles take."""

    verify_ms: Callable[[int, int], float]
    """Nodes (the root included) and tokens of the text → milliseconds of a cycle without its draft."""
    draft_ms: Mapping[int, float] = field(default_factory=dict)
    """Drafted nodes of a tree → milliseconds to draft it."""


@dataclass(frozen=True)
class _Choice:
    """A way to go on: what it gives, and what it takes."""

    kind: Kind
    nodes: int
    """Drafted nodes."""
    tokens: float
    ms: float
    table_ms: float
    """As the table of costs says."""

    def worth(self, rate: float) -> float:
        return self.tokens - rate * self.ms


class Adaptive:
    """Copies, trees of several sizes, or plain decoding, whichever is worth most just now.

    Args:
        lookup: Finds copies.
        costs: What cycles take on this machine.
        tree: Drafts trees; None for copies alone.
    """

    def __init__(self, lookup: PromptLookup, costs: CycleCosts, tree: TreeDrafter | None = None):
        self.lookup, self.tree = lookup, tree
        self._draft_ms = costs.draft_ms
        self._verify_ms = lru_cache(maxsize=4096)(costs.verify_ms)
        self._copies = {ngram: ChainOdds(priors) for ngram, priors in _COPY_PRIORS.items()}
        self._trees = None if tree is None else TreeOdds({size: tree.expected(size) for size in costs.draft_ms})
        self._paces = Paces()
        plain_ms = costs.verify_ms(1, _CONTEXTS)
        self._speed = Speed(1.0, plain_ms)
        self._patience, self._waited = _PATIENCE, 0
        self._length = 0
        self._choice = _Choice("none", 0, 1.0, plain_ms, plain_ms)
        self._began = 0.0
        self._watched: tuple[ChainOdds, Sequence[int], int] | None = None
        """A copy that is compared with the text as it comes: its odds, its tokens, and how many were right so far."""
        self.chosen = dict.fromkeys(get_args(Kind), 0)
        """Cycles of this text by what was drafted."""

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """See `Drafter`."""
        self.lookup.start(prompt_L, scores)
        if self.tree is not None:
            self.tree.start(prompt_L, scores)
        self._length, self._watched = len(prompt_L), None
        self.chosen = dict.fromkeys(get_args(Kind), 0)
        self._patience, self._waited = max(_PATIENCE, self._patience // 2), 0  # trees may suit this text better

    def propose(self, token: int, room: int) -> Draft:
        """See `Drafter`."""
        self._began = perf_counter()
        self._length += 1
        ngram, copied = self.lookup.found(token, min(room, LONGEST_COPY))
        if copied and self._watched is None:
            self._watched = self._copies[ngram], copied, 0
        choice = self._choice = self._best(ngram, len(copied), room)
        self.chosen[choice.kind] += 1
        if choice.kind == "tree" and self.tree is not None:
            self.tree.keep(choice.nodes)
            return self.tree.propose(token, room)
        if self.tree is not None:
            self.tree.note_root(token)
        if choice.kind == "copy":
            self._forget()
            self._watched = self._copies[ngram], copied, 0
        return Draft.chain([token, *copied[: choice.nodes]], self.lookup.device)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """See `Drafter`."""
        if self.tree is not None:
            self.tree.observe(verdict, scores)
        self.lookup.observe(verdict, scores)
        self._watch((*verdict.accepted, verdict.next_token))
        choice = self._choice
        ms = min(1e3 * (perf_counter() - self._began), _STRAY * choice.ms)
        self._length += len(verdict.accepted)
        self._paces.note((choice.kind, choice.nodes), ms / choice.table_ms)
        self._speed.note(1 + len(verdict.accepted), ms)
        if (
            choice.kind == "tree" and len(verdict.choices) == choice.nodes + 1
        ):  # a tree cut at an answer's end says less
            self._learn_tree(choice.nodes, verdict)

    def _learn_tree(self, nodes: int, verdict: Verdict) -> None:
        if self.tree is not None and self._trees is not None:
            self._trees.note(nodes, self.tree.accepted_of(verdict.path, self._trees.up_to(nodes)))
            if verdict.accepted:
                self._patience = max(_PATIENCE, self._patience // 2)

    def _best(self, ngram: int, copied: int, room: int) -> _Choice:
        """The most worthwhile draft; a tree where none has been tried for too long."""
        rate = self._speed.rate
        best = max(self._without_tree(ngram, copied), key=lambda choice: choice.worth(rate))
        if self._trees is None or room < 2:
            return best
        accepted, draft_ms = self._trees.accepted, self._draft_ms
        trees = (self._priced("tree", nodes, accepted[nodes], draft_ms[nodes]) for nodes in draft_ms)
        tree = max(trees, key=lambda choice: choice.worth(rate))
        if tree.worth(rate) > best.worth(rate):
            self._patience, self._waited = _PATIENCE, 0
            return tree
        self._waited += 1
        if self._waited > self._patience and best.kind == "none":
            self._patience, self._waited = min(2 * self._patience, _MOST_PATIENCE), 0
            return tree
        return best

    def _without_tree(self, ngram: int, copied: int) -> Iterator[_Choice]:
        """No draft, and copies of several lengths."""
        yield self._priced("none", 0, 0.0)
        if copied:
            accepted = self._copies[ngram].accepted(copied)
            for length in (*(length for length in _LENGTHS if length < copied), copied):
                yield self._priced("copy", length, accepted[length])

    def _priced(self, kind: Kind, nodes: int, accepted: float, draft_ms: float = 0.0) -> _Choice:
        length = max(1, self._length // _CONTEXTS * _CONTEXTS)
        table_ms = self._verify_ms(1 + nodes, length) + draft_ms
        return _Choice(kind, nodes, 1.0 + accepted, table_ms * self._paces.of((kind, nodes)), table_ms)

    def _watch(self, said: Sequence[int]) -> None:
        """Compare the watched copy with what the text says next."""
        if self._watched is None:
            return
        odds, copied, right = self._watched
        for token in said[: len(copied) - right]:
            if copied[right] != token:
                odds.note(right, right + 1)
                self._watched = None
                return
            right += 1
        self._watched = odds, copied, right
        if right == len(copied):
            self._forget()

    def _forget(self) -> None:
        """Enter what is known of the watched copy, and watch it no longer."""
        if self._watched is not None:
            odds, _, right = self._watched
            odds.note(right, right)
            self._watched = None
