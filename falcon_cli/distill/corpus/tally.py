"""What became of the dialogues of a corpus: none is left out or cut without being counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """Numbers of dialogues; those read are those used and those left out."""

    read: int = 0
    used: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → dialogues of which nothing is used."""
    cut: Counter[str] = field(default_factory=Counter)
    """Reason → used dialogues that end early, or begin late."""
    answers: Counter[str] = field(default_factory=Counter)
    """Reason → answers of the target's that are left out or cut."""

    def count(self, texts: int, reasons: Sequence[str]) -> None:
        """Count a dialogue that gave so many texts, and was cut for these reasons, the last of which ended it."""
        self.used += texts > 0
        if texts:
            self.cut.update(set(reasons))
        else:
            self.left_out[reasons[-1] if reasons else "without an answer"] += 1

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        said = f"{self.read:,} dialogues read: {self.used:,} used, {_told(self.left_out, 'left out')}"
        lines = [said] + ([_told(self.cut, "of those used are cut")] if self.cut else [])
        return lines + ([_told(self.answers, "of the target's answers are left out or cut")] if self.answers else [])

    def to_json(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, numbers: Mapping[str, Any]) -> "Tally":
        """Undo `to_json`; TypeError or KeyError where it is something else."""
        reasons = {name: Counter(numbers[name]) for name in ("left_out", "cut", "answers")}
        return cls(int(numbers["read"]), int(numbers["used"]), **reasons)


def _told(reasons: Counter[str], what: str) -> str:
    parts = ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common())
    return f"{sum(reasons.values()):,} {what}" + (f" ({parts})" if parts else "")
