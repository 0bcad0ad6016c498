"""Figures of one kind of weights over all questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt

from falcon_cli.bench.figures.certificate import first_difference
from falcon_cli.studies.quality.reading import Reading

_95 = 1.959964  # standard deviations either way that hold 95 % of a normal distribution


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson's, which holds for few questions, and for none or all of them right.

    Args:
        right: How many were.
        of: Of how many, one at least.
    """
    square = _95**2
    middle = (right + square / 2) / (of + square)
    half = _95 / (of + square) * sqrt(right * (of - right) / of + square / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Solved:
    """How many questions were answered right."""

    right: int
    of: int
    won: int
    """Right here, and wrong in full precision."""
    lost: int
    """Wrong here, and right in full precision."""

    @classmethod
    def of_marks(cls, marks: Sequence[bool], exact: Sequence[bool]) -> "Solved":
        """Count marks, and pair them with full precision's, question by question."""
        pairs = list(zip(marks, exact, strict=True))
        return cls(sum(marks), len(marks), pairs.count((True, False)), pairs.count((False, True)))

    def __str__(self) -> str:
        low, high = wilson(self.right, self.of)
        return f"{self.right} of {self.of}: {self.right / self.of:.0%} [{low:.0%}, {high:.0%}]"

    @property
    def changes(self) -> str:
        """`+1 -2`: one question won and two lost against full precision."""
        return f"+{self.won} -{self.lost}"


@dataclass(frozen=True)
class Quality:
    """One kind of weights over all questions."""

    prompt_perplexity: float
    answer_perplexity: float
    agreement: float
    """Share of the full-precision answers' tokens that are the first choice of these weights too."""
    alike: float
    """Share of a free-running answer before the first token that differs."""
    identical: dict[str, int]
    """Method → answers that are plain decoding's with these weights, by ids."""
    questions: int
    cut: int
    """Answers that ended at the limit of new tokens."""

    @classmethod
    def of(cls, found: Sequence[Reading], exact: Sequence[Reading]) -> "Quality":
        """Compare readings with those in full precision, question by question."""
        answers = [reading.own for reading in exact]
        tokens = sum(map(len, answers))
        alike = [_alike(reading.own, answer) for reading, answer in zip(found, answers, strict=True)]
        return cls(
            exp(sum(reading.prompt_nats for reading in found) / sum(len(reading.prompt) - 1 for reading in found)),
            exp(sum(reading.answer_nats for reading in found) / tokens),
            sum(reading.agreed for reading in found) / tokens,
            sum(alike) / len(alike),
            {name: sum(reading.parted[name] is None for reading in found) for name in found[0].parted},
            len(found),
            sum(reading.cut for reading in found),
        )


def _alike(own: list[int], answer: list[int]) -> float:
    place = first_difference(answer, own)
    return 1.0 if place is None else place / len(answer)
