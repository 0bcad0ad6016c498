"""What one generation did and how long each part took: plain records, no tensors.

Counting (docs/measuring.md): a cycle that emits m tokens accepted m − 1 drafted tokens; its last token is the
bonus token (or the stop token that ended it early). The token that prefill itself yields belongs to no cycle. So
Σ emitted = tokens after prefill, and α = accepted / emitted = 1 − 1/(τ + 1) holds exactly.
"""

from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Cycle:
    """One draft and one verification."""

    emitted: int
    """Tokens this cycle added to the output (accepted drafted tokens + 1)."""
    nodes: int
    """Tokens scored by the target in this cycle, the root included."""
    draft_seconds: float
    verify_seconds: float
    seconds: float
    """Whole cycle, wall clock: draft + verification + everything else."""

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted."""
        return self.emitted - 1


@dataclass
class Completion:
    """The answer to one prompt, with its timing."""

    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    """Every new token, the prefill's own first one included, cut at the stop token (kept) or the length limit."""
    prefill_seconds: float = 0.0
    cycles: list[Cycle] = field(default_factory=list)
    finish: Finish = "length"

    @property
    def decode_tokens(self) -> int:
        """Tokens emitted after prefill."""
        return sum(cycle.emitted for cycle in self.cycles)

    @property
    def decode_seconds(self) -> float:
        """Wall-clock seconds after prefill."""
        return sum(cycle.seconds for cycle in self.cycles)
