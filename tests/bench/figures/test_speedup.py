import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.bench.figures.speedup import Totals, counted, speedup, speedup_interval
from falcon_cli.decode.stats import Completion, Cycle


def answer(*emitted: int, seconds: float = 1.0) -> Completion:
    ids = list(range(1 + sum(emitted)))
    cycles = [Cycle(count, 8, 0.2 * seconds, 0.7 * seconds, seconds) for count in emitted]
    return Completion(prompt_tokens=5, ids=ids, prefill_seconds=0.5, cycles=cycles)


def plain(tokens: int, seconds: float) -> Totals:
    return Totals(tokens=tokens, cycles=tokens, decode_seconds=seconds)


answers = st.lists(st.integers(1, 7), max_size=12).map(lambda emitted: answer(*emitted))


def test_counting_by_hand():
    totals = counted(answer(3, 1, 2))
    assert (totals.tokens, totals.cycles, totals.accepted) == (6, 3, 3)
    assert totals.reached_by_depth == (2, 1)
    assert totals.accepted_by_depth == [2 / 3, 1 / 3]
    assert totals.prefill_seconds == 0.5
    assert totals.decode_seconds == pytest.approx(3.0)
    assert totals.draft_seconds == pytest.approx(0.6)
    assert totals.verify_seconds == pytest.approx(2.1)
    assert totals.tokens_per_second == pytest.approx(2.0)
    assert totals.accepted_length == 1.0
    assert totals.tokens_per_cycle == 2.0
    assert totals.acceptance_rate == 0.5


@pytest.mark.parametrize(
    ("upto", "tokens", "cycles"),
    [(0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 4, 2), (6, 5, 3), (7, 6, 3), (99, 6, 3)],
)
def test_counting_stops_at_a_token_but_time_at_the_cycle(upto, tokens, cycles):
    totals = counted(answer(3, 1, 2), upto)
    assert (totals.tokens, totals.cycles) == (tokens, cycles)
    assert totals.decode_seconds == pytest.approx(cycles)
    assert totals.prefill_seconds == 0.5


@given(answers, st.integers(0, 90))
def test_a_cut_counts_the_tokens_before_it(completion, upto):
    totals = counted(completion, upto)
    assert totals.tokens == max(0, min(upto, len(completion.ids)) - 1)
    assert counted(completion, len(completion.ids)) == counted(completion)
    assert counted(completion).tokens == completion.decode_tokens


@given(st.lists(answers, max_size=4))
def test_sums_keep_the_identity_of_alpha_and_tau(completions):
    totals = sum(map(counted, completions), Totals())
    assert totals.acceptance_rate == pytest.approx(1 - 1 / (totals.accepted_length + 1))
    assert totals.accepted == sum(cycle.accepted for one in completions for cycle in one.cycles)
    assert totals.accepted_length == pytest.approx(sum(totals.accepted_by_depth))
    assert totals.tokens == sum(one.decode_tokens for one in completions)
    assert totals.decode_seconds == pytest.approx(sum(one.decode_seconds for one in completions))


def test_totals_that_do_not_add_up_are_refused():
    with pytest.raises(AssertionError, match="do not add up"):
        Totals(tokens=5, cycles=2, reached_by_depth=(1,))


def test_an_answer_of_prefills_token_alone():
    totals = counted(answer())
    assert (totals.tokens, totals.tokens_per_second, totals.accepted_length) == (0, 0.0, 0.0)
    assert (totals.tokens_per_cycle, totals.acceptance_rate, totals.accepted_by_depth) == (1.0, 0.0, [])


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
