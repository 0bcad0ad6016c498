import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.decode.stats import Completion, Cycle
from falcon_cli.decode.totals import Totals, counted


def answer(*emitted: int, seconds: float = 1.0) -> Completion:
    ids = list(range(1 + sum(emitted)))
    cycles = [Cycle(count, 8, 0.2 * seconds, 0.7 * seconds, seconds) for count in emitted]
    return Completion(prompt_tokens=5, ids=ids, prefill_seconds=0.5, cycles=cycles)


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
