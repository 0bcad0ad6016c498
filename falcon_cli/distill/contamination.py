"""No benchmark's prompt may be trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from falcon_cli.console import warn
from falcon_cli.data.datasets import load
from falcon_cli.errors import FalconError

_WORDS = 8
"""Words in a row that make a prompt worth a closer look."""


@dataclass(frozen=True)
class BenchPrompts:
    """The turns of benchmarks, ready to be looked for."""

    whole: frozenset[str]
    """Every turn, normalised."""
    begun: dict[str, tuple[str, ...]]
    """First words of a longer turn → the turns that begin so."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "BenchPrompts":
        """Load data sets; one that cannot be had is named, and not looked for.

        Raises:
            UsageError: No such data set.
        """
        turns: list[str] = []
        for name in names:
            try:
                turns += [turn for question in load(name).questions for turn in question.turns]
            except FalconError as error:
                if error.exit_code == 2:
                    raise
                warn(f"{name} is not there to be kept out of the corpus ({error})")
        return cls.from_turns(turns)

    @classmethod
    def from_turns(cls, turns: Iterable[str]) -> "BenchPrompts":
        """The turns themselves."""
        begun: dict[str, list[str]] = {}
        whole = [normalised(turn) for turn in turns]
        for turn in whole:
            words = turn.split()
            if len(words) >= _WORDS:
                begun.setdefault(" ".join(words[:_WORDS]), []).append(turn)
        return cls(frozenset(whole), {key: tuple(found) for key, found in begun.items()})

    def match(self, said: Sequence[str]) -> bool:
        """Whether something the user says is one of the turns, or holds one of at least eight words."""
        for text in map(normalised, said):
            if text in self.whole:
                return True
            words = text.split()
            for place in range(len(words) - _WORDS + 1):
                candidates = self.begun.get(" ".join(words[place : place + _WORDS]), ())
                if any(turn in text for turn in candidates):
                    return True
        return False


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.casefold().split())
