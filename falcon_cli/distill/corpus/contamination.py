"""Finds benchmark prompts in the corpus, so that no drafter is trained on them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from falcon_cli.console import warn
from falcon_cli.data.datasets import load
from falcon_cli.errors import FalconError

_WORDS = 4
"""Consecutive words that select the candidates for a full comparison."""
_LETTERS = 40
"""A turn of at least this length is searched for inside other text; a shorter one must be the whole message."""
_FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class BenchPrompts:
    """The turns of benchmarks, indexed for search."""

    whole: frozenset[str]
    """Every turn, normalised."""
    begun: dict[str, tuple[str, ...]]
    """First words of a longer turn → the turns that begin with them."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "BenchPrompts":
        """Load data sets; one that cannot be loaded is skipped with a warning.

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
                warn(f"{name} cannot be loaded, so the corpus is not checked against it ({error})")
        return cls.from_turns(turns)

    @classmethod
    def from_turns(cls, turns: Iterable[str]) -> "BenchPrompts":
        """Index these turns."""
        whole: set[str] = set()
        begun: dict[str, list[str]] = {}
        for part in (part for turn in turns for part in _parts(turn)):
            text = normalised(part)
            words = text.split()
            if words:
                whole.add(text)
            if len(" ".join(part.split())) >= _LETTERS and len(words) >= _WORDS:
                begun.setdefault(" ".join(words[:_WORDS]), []).append(text)
        return cls(frozenset(whole), {key: tuple(texts) for key, texts in begun.items()})

    def match(self, messages: Sequence[str]) -> bool:
        """Whether a message is one of the turns, or contains one of at least forty characters."""
        for text in map(normalised, messages):
            if text in self.whole:
                return True
            words = text.split()
            for place in range(len(words) - _WORDS + 1):
                candidates = self.begun.get(" ".join(words[place : place + _WORDS]), ())
                if any(turn in text for turn in candidates):
                    return True
        return False


def normalised(text: str) -> str:
    """The words in lower case with single spaces, without punctuation, so that quotes around a prompt hide nothing."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _parts(turn: str) -> list[str]:
    """A turn, and the code in it: Falcon's HumanEval prompts add a request that no corpus contains."""
    return [turn, *_FENCED.findall(turn)]
