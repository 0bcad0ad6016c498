"""Totals over cycles, and what follows from them: τ, tokens per cycle, α (docs/measuring.md).

Rates are total tokens over total seconds, never means of rates.
"""

from dataclasses import dataclass
from itertools import zip_longest

from falcon_cli.decode.stats import Completion


@dataclass(frozen=True)
class Totals:
    """Sums over cycles; the token that prefill itself yields is not counted."""

    tokens: int = 0
    """Tokens emitted after prefill."""
    cycles: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Wall clock after prefill: draft + verify + everything else."""
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    reached_by_depth: tuple[int, ...] = ()
    """Entry d - 1: cycles that accepted at least d drafted tokens."""

    def __post_init__(self) -> None:
        # Every cycle emits its accepted tokens and one more. In integers this is α = 1 − 1/(τ + 1), exactly.
        assert self.tokens == self.accepted + self.cycles, f"tokens do not add up: {self}"

    def __add__(self, other: "Totals") -> "Totals":
        depths = zip_longest(self.reached_by_depth, other.reached_by_depth, fillvalue=0)
        return Totals(
            tokens=self.tokens + other.tokens,
            cycles=self.cycles + other.cycles,
            prefill_seconds=self.prefill_seconds + other.prefill_seconds,
            decode_seconds=self.decode_seconds + other.decode_seconds,
            draft_seconds=self.draft_seconds + other.draft_seconds,
            verify_seconds=self.verify_seconds + other.verify_seconds,
            reached_by_depth=tuple(mine + theirs for mine, theirs in depths),
        )

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted, bonus tokens excluded."""
        return sum(self.reached_by_depth)

    @property
    def tokens_per_second(self) -> float:
        """Decode speed, prefill excluded; 0 if nothing was decoded."""
        return self.tokens / self.decode_seconds if self.decode_seconds else 0.0

    @property
    def accepted_length(self) -> float:
        """τ, drafted tokens accepted per cycle (the Falcon paper's); 0 without cycles."""
        return self.accepted / self.cycles if self.cycles else 0.0

    @property
    def tokens_per_cycle(self) -> float:
        """τ + 1 (EAGLE's and Spec-Bench's "mean accepted tokens")."""
        return self.accepted_length + 1

    @property
    def acceptance_rate(self) -> float:
        """α, the share of tokens after prefill that were drafted; 0 if there are none."""
        return self.accepted / self.tokens if self.tokens else 0.0

    @property
    def accepted_by_depth(self) -> list[float]:
        """Entry d - 1: share of cycles that accepted at least d drafted tokens."""
        return [reached / self.cycles for reached in self.reached_by_depth]


def counted(completion: Completion, upto: int | None = None) -> Totals:
    """Total a completion as if a stop token stood at output index `upto` (None: the whole of it).

        ids       t0 | t1 t2 t3 | t4 | t5 t6      t0 is prefill's own, cycles emit 3, 1, 2
        upto = 3       ^^ ^^                      2 tokens, 1 cycle, 1 accepted

    A cycle that begins before `upto` counts whole in time, since its work was done; its tokens only up to there.
    """
    end = 1 + completion.decode_tokens if upto is None else upto
    begin, lengths, kept = 1, [], []
    for cycle in completion.cycles:
        if begin >= end:
            break
        kept.append(cycle)
        lengths.append(min(cycle.emitted, end - begin) - 1)
        begin += cycle.emitted
    return Totals(
        tokens=sum(lengths) + len(kept),
        cycles=len(kept),
        prefill_seconds=completion.prefill_seconds,
        decode_seconds=sum(cycle.seconds for cycle in kept),
        draft_seconds=sum(cycle.draft_seconds for cycle in kept),
        verify_seconds=sum(cycle.verify_seconds for cycle in kept),
        reached_by_depth=tuple(
            sum(length >= depth for length in lengths) for depth in range(1, max(lengths, default=0) + 1)
        ),
    )
