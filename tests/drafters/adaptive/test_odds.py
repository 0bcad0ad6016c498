import pytest

from falcon_cli.drafters.adaptive.odds import ChainOdds, Paces, Speed, TreeOdds


def test_a_chain_is_worth_what_its_priors_say_until_something_is_seen():
    assert ChainOdds((0.5, 0.8)).accepted(3) == pytest.approx([0, 0.5, 0.9, 1.22])


def test_each_place_learns_from_the_chains_that_reach_it():
    """Two tokens are always right, the third never: what lies behind it is not seen."""
    odds = ChainOdds((0.5, 0.8))
    for _ in range(200):
        odds.note(right=2, known=3)
    totals = odds.accepted(5)
    assert totals[2] == pytest.approx(2, abs=0.01)
    assert totals[5] == pytest.approx(2, abs=0.01)


def test_a_chain_that_was_compared_only_in_part_says_nothing_of_the_rest():
    odds = ChainOdds((0.5, 0.8))
    for _ in range(200):
        odds.note(right=1, known=1)
    assert odds.accepted(2) == pytest.approx([0, 1, 1.8], abs=0.01)


def test_places_beyond_all_chains_so_far_are_like_the_last():
    odds = ChainOdds((0.5,))
    for _ in range(200):
        odds.note(right=4, known=4)
    assert odds.accepted(6)[6] > 5


def test_nested_trees_learn_together():
    odds = TreeOdds({1: 0.5, 4: 1.0, 16: 2.0})
    for _ in range(200):
        odds.note(4, {1: 1, 4: 2})
    assert odds.accepted == pytest.approx({1: 1, 4: 2, 16: 4}, rel=0.01)
    assert odds.up_to(4) == [1, 4]


def test_a_tree_that_accepts_nothing_is_worth_nothing_at_any_size():
    odds = TreeOdds({1: 0.5, 8: 1.2})
    for _ in range(300):
        odds.note(1, {1: 0})
    assert odds.accepted[1] == pytest.approx(0, abs=0.01)
    assert odds.accepted[8] == pytest.approx(0, abs=0.01)


def test_kinds_of_cycles_that_were_not_seen_are_as_slow_as_the_others():
    paces = Paces()
    for _ in range(200):
        paces.note(1, 2.0)
    assert paces.of(1) == pytest.approx(2, rel=0.01)
    assert paces.of(5) == pytest.approx(2, rel=0.01)
    paces.note(5, 1.0)
    assert paces.of(1) == pytest.approx(2, rel=0.01)
    assert paces.of(5) < 2


def test_the_speed_is_that_of_late():
    speed = Speed(1.0, 10.0)
    assert speed.rate == pytest.approx(0.1)
    for _ in range(200):
        speed.note(3, 10.0)
    assert speed.rate == pytest.approx(0.3, rel=0.01)
