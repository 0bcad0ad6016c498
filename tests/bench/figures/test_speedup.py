import math

import pytest

from falcon_cli.bench.figures.speedup import speedup, speedup_interval
from falcon_cli.decode.totals import Totals


def plain(tokens: int, seconds: float) -> Totals:
    return Totals(tokens=tokens, cycles=tokens, decode_seconds=seconds)


def test_speedup_is_a_ratio_of_totals_not_a_mean_of_ratios():
    base = [plain(10, 10.0), plain(90, 90.0)]
    other = [plain(10, 1.0), plain(90, 99.0)]
    assert speedup(base, other) == pytest.approx(1.0)


@pytest.mark.parametrize(("base", "other"), [([], []), ([Totals()], [plain(3, 1.0)]), ([plain(3, 1.0)], [Totals()])])
def test_a_speedup_of_nothing_is_nan(base, other):
    assert math.isnan(speedup(base, other))
    assert all(map(math.isnan, speedup_interval(base, other)))


def test_questions_must_be_paired():
    with pytest.raises(ValueError, match="paired"):
        speedup([plain(1, 1.0)], [])


def test_the_interval_is_deterministic_and_holds_the_speedup():
    base = [plain(100, 4.0 + question % 3) for question in range(30)]
    other = [plain(100, 2.0 + question % 5) for question in range(30)]
    low, high = speedup_interval(base, other, seed=3)
    assert (low, high) == speedup_interval(base, other, seed=3)
    assert (low, high) != speedup_interval(base, other, seed=4)
    assert low < speedup(base, other) < high


def test_the_interval_is_paired():
    """Questions differ wildly, the ratio does not: resampled together, nothing is left to vary."""
    base = [plain(10 + 7 * question, 3.0 + question**2) for question in range(20)]
    other = [plain(total.tokens, total.decode_seconds / 2) for total in base]
    assert speedup_interval(base, other) == pytest.approx((2.0, 2.0))


def test_the_interval_is_as_wide_as_theory_has_it():
    """Equal tokens, so the speedup is 4 over a mean of seconds: the delta method knows its standard error."""
    seconds = [2.0 + question % 4 for question in range(200)]  # mean 3.5, variance 1.25
    low, high = speedup_interval([plain(100, 4.0)] * 200, [plain(100, each) for each in seconds], resamples=20_000)
    error = 4 / 3.5**2 * math.sqrt(1.25 / 200)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_the_interval_narrows_with_more_questions():
    def width(questions: int) -> float:
        base = [plain(100, 4.0) for _ in range(questions)]
        other = [plain(100, 2.0 + question % 4) for question in range(questions)]
        low, high = speedup_interval(base, other)
        return high - low

    assert width(400) < 0.5 * width(40)


def test_questions_without_tokens_do_not_spoil_an_interval():
    low, high = speedup_interval([Totals(), plain(10, 2.0)], [Totals(), plain(10, 1.0)])
    assert (low, high) == pytest.approx((2.0, 2.0))
