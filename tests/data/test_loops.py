import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.data.loops import loop_start


def brute_force(ids: list[int], stretch: int) -> int | None:
    for i in range(1, len(ids) - stretch + 1):
        for period in range(1, i + 1):
            if all(ids[j] == ids[j - period] for j in range(i, i + stretch)):
                return i
    return None


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 8))
def test_agrees_with_the_definition_spelled_out(ids, stretch):
    assert loop_start(ids, stretch) == brute_force(ids, stretch)


@given(st.integers(1, 20), st.integers(0, 60), st.integers(32, 70))
def test_finds_a_planted_loop(period, before, repeats):
    head = list(range(before + period))  # all distinct: nothing repeats yet
    tail = [head[before + at % period] for at in range(repeats)]
    assert loop_start(head + tail) == before + period


def test_a_stretch_one_token_short_is_no_loop():
    head = list(range(50))
    assert loop_start(head + head[:31]) is None
    assert loop_start(head + head[:32]) == 50


@pytest.mark.parametrize("ids", [[], [1], list(range(2000))])
def test_text_without_a_loop(ids):
    assert loop_start(ids) is None


def test_token_zero_does_not_match_what_is_not_there():
    assert loop_start([0] * 33) == 1
    assert loop_start([0] * 32) is None


def test_a_stretch_needs_a_length():
    with pytest.raises(ValueError, match="at least 1"):
        loop_start([1, 2], stretch=0)


def test_large_ids_are_kept_apart():
    rng = random.Random(0)
    ids = [rng.randrange(2**31, 2**33) for _ in range(100)]
    assert loop_start(ids) is None
    assert loop_start(ids + ids[:40]) == 100
