"""No benchmark's prompt may be trained on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from falcon_cli.console import warn
from falcon_cli.data.datasets import load
from falcon_cli.errors import FalconError

_WORDS = 4
"""Words in a row that make a prompt worth a closer look."""
_LETTERS = 40
"""A turn so long is looked for inside other text; a shorter one must be all that is said."""
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


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
        whole: set[str] = set()
        begun: dict[str, list[str]] = {}
        for part in (part for turn in turns for part in _parts(turn)):
            text = normalised(part)
            words = text.split()
            if words:
                whole.add(text)
            if len(" ".join(part.split())) >= _LETTERS and len(words) >= _WORDS:
                begun.setdefault(" ".join(words[:_WORDS]), []).append(text)
        return cls(frozenset(whole), {key: tuple(found) for key, found in begun.items()})

    def match(self, said: Sequence[str]) -> bool:
        """Whether something the user says is one of the turns, or holds one of at least forty characters."""
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
    """The words in lower case, single spaces: quotes and punctuation that cling to a prompt hide nothing."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _parts(turn: str) -> list[str]:
    """A turn, and the code it holds: HumanEval's stands in a request of our own, which no corpus would have."""
    return [turn, *_FENCED.findall(turn)]
