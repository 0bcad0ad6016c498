"""Counts, intervals and pairs."""

from math import exp

import pytest

from falcon_cli.studies.quality.figures import Quality, Solved, wilson
from falcon_cli.studies.quality.reading import Reading


def test_every_token_counts_alike_and_so_does_every_answer():
    exact = [Reading([1, 2, 3], [4, 5, 6, 7], 0.0, 0.0, 4), Reading([1, 2], [8], 0.0, 0.0, 1)]
    parted = [{"pld": 3, "lookahead": None}, {"pld": None, "lookahead": None}]
    found = [
        Reading([1, 2, 3], [4, 9], 4.0, 3.0, 2, cut=True, parted=parted[0]),
        Reading([1, 2], [8], 2.0, 2.0, 1, parted=parted[1]),
    ]
    whole = Quality(exp(2.0), exp(1.0), 0.6, 0.625, {"pld": 1, "lookahead": 2}, questions=2, cut=1)
    assert Quality.of(found, exact) == whole


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (82, 164, 0.4243, 0.5757),
        (1, 1, 0.2065, 1),
    ],
)
def test_intervals_are_wilsons(right, of, low, high):
    assert wilson(right, of) == pytest.approx((low, high), abs=1e-4)


def test_pairs_count_what_changed_each_way():
    exact = [True, True, True, False, False]
    found = Solved.of_marks([True, False, False, True, False], exact)
    assert found == Solved(2, 5, won=1, lost=2)
    assert (str(found), found.changes) == ("2 of 5: 40% [12%, 77%]", "+1 -2")
    assert Solved.of_marks(exact, exact).changes == "+0 -0"
