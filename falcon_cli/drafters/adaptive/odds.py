"""What drafts are worth, learned while decoding: how often they are right, and how long their cycles take.

Plain arithmetic without tensors: it runs in every cycle.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

_LEARN = 0.06
"""Share by which an estimate moves towards what a cycle shows, once it has seen many."""
_PRIOR = 5
"""What an estimate was before weighs as much as so many cycles."""
_FORGET = 0.96
"""What a cycle still weighs in the speed of late after one more."""


def _share(seen: int) -> float:
    """The share by which an estimate that has seen so many cycles moves."""
    return max(_LEARN, 1 / (_PRIOR + seen))


class ChainOdds:
    """How likely the tokens of a chain are right, each given that those before it are.

    Args:
        priors: By place, before anything was seen; the last serves all later places too.
    """

    def __init__(self, priors: Sequence[float]):
        self._odds = list(priors)
        self._seen = [0] * len(self._odds)

    def note(self, right: int, known: int) -> None:
        """Learn from a chain of which the first `known` tokens could be compared with the text, and `right` were it."""
        for place in range(min(right + 1, known)):
            if place == len(self._odds):
                self._odds.append(self._odds[-1])
                self._seen.append(0)
            self._odds[place] += _share(self._seen[place]) * ((place < right) - self._odds[place])
            self._seen[place] += 1

    def accepted(self, length: int) -> list[float]:
        """How many tokens of the first 0, 1, … `length` are right on average."""
        totals, reached = [0.0], 1.0
        for place in range(length):
            reached *= self._odds[min(place, len(self._odds) - 1)]
            totals.append(totals[-1] + reached)
        return totals


class TreeOdds:
    """How many tokens a tree accepts, for nested trees of several sizes.

    Args:
        priors: Drafted nodes → accepted tokens, before anything was seen.
    """

    def __init__(self, priors: Mapping[int, float]):
        self.accepted = dict(sorted(priors.items()))
        """Drafted nodes → accepted tokens on average."""
        self._seen = 0

    def up_to(self, size: int) -> list[int]:
        """The sizes that are no larger."""
        return [nodes for nodes in self.accepted if nodes <= size]

    def note(self, size: int, accepted: Mapping[int, int]) -> None:
        """Learn from a tree of `size` nodes what it and the smaller ones accepted; larger ones move in proportion."""
        before, share = self.accepted[size], _share(self._seen)
        self._seen += 1
        for smaller in self.up_to(size):
            self.accepted[smaller] += share * (accepted[smaller] - self.accepted[smaller])
        for larger in self.accepted.keys() - set(self.up_to(size)):
            self.accepted[larger] *= self.accepted[size] / before


class Paces:
    """How long cycles take, as multiples of what a table of costs says: other work on the machine makes them longer."""

    def __init__(self) -> None:
        self._factors: dict[Hashable, float] = {}
        self._all = 1.0

    def note(self, kind: Hashable, factor: float) -> None:
        """Learn from a cycle of some kind that took so many times as long as the table says."""
        self._factors[kind] = self.of(kind) + _LEARN * (factor - self.of(kind))
        self._all += _LEARN * (factor - self._all)

    def of(self, kind: Hashable) -> float:
        """The multiple for a kind of cycle; of all kinds where none of this one has been seen."""
        return self._factors.get(kind, self._all)


@dataclass
class Speed:
    """Tokens a millisecond of late."""

    tokens: float
    ms: float

    def note(self, tokens: int, ms: float) -> None:
        """Enter a cycle."""
        self.tokens = _FORGET * self.tokens + tokens
        self.ms = _FORGET * self.ms + ms

    @property
    def rate(self) -> float:
        """Tokens a millisecond."""
        return self.tokens / self.ms
