"""Best-first search against sorting every path that there is."""

from itertools import product

import pytest

from falcon_cli.tree.likeliest import ScoredPath, likeliest

SHARES = (0.5, 0.3, 0.2)
DEPTH = 3


def children(path, probability):
    """Every child of a path, whatever the path."""
    if len(path) < DEPTH:
        yield from (ScoredPath((*path, rank), probability * share) for rank, share in enumerate(SHARES))


def child_and_sibling(path, probability):
    """The same tree, offered one sibling at a time."""
    if len(path) < DEPTH:
        yield ScoredPath((*path, 0), probability * SHARES[0])
    if path and path[-1] + 1 < len(SHARES):
        *above, rank = path
        yield ScoredPath((*above, rank + 1), probability / SHARES[rank] * SHARES[rank + 1])


def probability_of(path):
    probability = 1.0
    for rank in path:
        probability *= SHARES[rank]
    return probability


@pytest.mark.parametrize("nodes", [0, 1, 2, 7, 20, 39, 99])
def test_the_likeliest_paths_are_those_that_sorting_gives(nodes):
    everything = [path for depth in range(1, DEPTH + 1) for path in product(range(len(SHARES)), repeat=depth)]
    order = sorted(everything, key=lambda path: (-probability_of(path), len(path), path))
    assert [scored.path for scored in likeliest(children, nodes)] == order[:nodes]
    assert all(scored.probability == probability_of(scored.path) for scored in likeliest(children, nodes))


@pytest.mark.parametrize("nodes", [1, 5, 20, 39])
def test_siblings_one_at_a_time_give_the_same_probabilities(nodes):
    found = [scored.probability for scored in likeliest(child_and_sibling, nodes)]
    assert found == pytest.approx([scored.probability for scored in likeliest(children, nodes)])


def test_successors_are_asked_of_each_path_taken_in_order():
    asked = []

    def noted(path, probability):
        asked.append(path)
        return children(path, probability)

    taken = likeliest(noted, 9)
    assert asked == [(), *(scored.path for scored in taken)]


def test_a_tie_goes_to_the_shorter_path_then_to_the_lower_rank():
    def sure(path, probability):
        return [ScoredPath((*path, rank), probability) for rank in (1, 0)] if len(path) < 2 else []

    assert [scored.path for scored in likeliest(sure, 9)] == [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
