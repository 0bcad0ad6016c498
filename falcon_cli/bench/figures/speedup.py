"""Speedups and their intervals, from totals by question.

Pure functions (docs/measuring.md). Rates are total tokens over total seconds, never means of rates.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from falcon_cli.decode.totals import Totals


def speedup(base: Sequence[Totals], other: Sequence[Totals]) -> float:
    """Ratio of decode speeds, each total tokens over total seconds; NaN where either side decoded nothing."""
    return float(_ratios(base, other, np.ones((1, len(base)), dtype=np.int64))[0])


def speedup_interval(
    base: Sequence[Totals], other: Sequence[Totals], seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """Give the 95 % percentile interval of `speedup`, bootstrapped over questions.

    Paired: entry q of both sequences is the same question, and a resample draws it for both. (NaN, NaN) if there is
    nothing to resample. One question gives an interval of width 0: it says nothing of other questions.
    """
    questions = len(base)
    if questions == 0:
        return math.nan, math.nan
    uniform = np.full(questions, 1 / questions)
    draws = np.random.default_rng(seed).multinomial(questions, uniform, size=resamples)
    ratios = _ratios(base, other, draws)
    ratios = ratios[np.isfinite(ratios)]
    if ratios.size == 0:
        return math.nan, math.nan
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def _ratios(base: Sequence[Totals], other: Sequence[Totals], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Speedup of every resample; draws[r, q] is how often resample r holds question q."""
    if len(base) != len(other):
        raise ValueError(f"paired questions expected, not {len(base)} and {len(other)}")
    sums = [
        draws @ np.array([[entry.tokens, entry.decode_seconds] for entry in side], dtype=np.float64).reshape(-1, 2)
        for side in (base, other)
    ]
    base_tokens, base_seconds, tokens, seconds = *sums[0].T, *sums[1].T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (tokens * base_seconds) / (seconds * base_tokens)
    return np.where(np.isfinite(ratios), ratios, np.nan)
