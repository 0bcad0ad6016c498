"""The likeliest paths against every tree that there is."""

from collections import Counter
from functools import lru_cache
from itertools import pairwise, product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath
from falcon_cli.tune_tree.search.probabilities import (
    WEIGHTS,
    PathProbabilities,
    cross_validated,
    likeliest_paths,
    probabilities_of,
)

DEPTH, WIDTH, NODES = 3, 3, 5
TINY = 1e-9
DRAFTS = st.lists(st.lists(st.integers(0, WIDTH - 1), max_size=DEPTH).map(tuple), min_size=1, max_size=30)
WEIGHT = st.sampled_from([TINY, *WEIGHTS])


@lru_cache
def trees(nodes):
    """Every tree of so many nodes, as a set of paths."""
    if nodes == 0:
        return {frozenset()}
    return {
        tree | {(*above, rank)}
        for tree in trees(nodes - 1)
        for above in [(), *tree]
        for rank in range(WIDTH)
        if len(above) < DEPTH and (*above, rank) not in tree
    }


def probabilities_from(drafts, weight):
    return PathProbabilities.of([RankPath(ranks, True) for ranks in drafts], DEPTH, WIDTH, weight)


def accepted(drafts, tree):
    """What a tree accepts of drafts, all together."""
    return sum(ranks[:depth] in tree for ranks in drafts for depth in range(1, len(ranks) + 1))


def test_every_tree_is_tried():
    assert [len(trees(nodes)) for nodes in range(4)] == [1, 3, 12, 55]  # as ternary trees are counted
    assert all(TreeShape.from_paths(tree) for tree in trees(4))


@given(DRAFTS, WEIGHT, st.integers(1, NODES))
def test_no_tree_is_likelier(drafts, weight, nodes):
    probabilities = probabilities_from(drafts, weight)
    probability = {
        path: probabilities.probability(path) for d in range(1, DEPTH + 1) for path in product(range(WIDTH), repeat=d)
    }
    best = max(sum(map(probability.get, tree)) for tree in trees(nodes))
    found = likeliest_paths(probabilities, nodes, DEPTH, k=1)
    assert sum(one.probability for one in found) == pytest.approx(best, rel=1e-9)
    assert [one.probability for one in found] == [probability[one.path] for one in found]


@given(DRAFTS, st.integers(1, NODES))
def test_on_its_own_drafts_no_tree_accepts_more(drafts, nodes):
    """With hardly any weight the chances are what was seen, so that acceptance can be counted."""
    tree = {one.path for one in likeliest_paths(probabilities_from(drafts, TINY), nodes, DEPTH, k=1)}
    assert accepted(drafts, tree) == max(accepted(drafts, other) for other in trees(nodes))


@given(DRAFTS, WEIGHT, st.integers(1, 39))
def test_every_beginning_is_a_tree_and_chances_never_grow(drafts, weight, nodes):
    found = likeliest_paths(probabilities_from(drafts, weight), nodes, DEPTH, k=2)
    assert len(found) == nodes
    for size in range(1, nodes + 1):
        TreeShape.from_paths(one.path for one in found[:size])
        assert found[:size] == likeliest_paths(probabilities_from(drafts, weight), size, DEPTH, k=2)
    assert all(one.probability >= other.probability > 0 for one, other in pairwise(found))
    probability = {(): 1.0, **{one.path: one.probability for one in found}}
    below = Counter()
    for one in found:
        assert one.probability <= probability[one.path[:-1]]
        below[one.path[:-1]] += one.probability
    assert all(total <= probability[path] * (1 + 1e-9) for path, total in below.items())


@given(DRAFTS)
def test_with_little_weight_chances_are_the_shares_seen_with_much_they_are_independent(drafts):
    seen, drawn = probabilities_from(drafts, TINY), probabilities_from(drafts, 1e12)
    assert seen.drafts == len(drafts)
    for path in {ranks[:depth] for ranks in drafts for depth in range(1, len(ranks) + 1)}:
        share = sum(ranks[: len(path)] == path for ranks in drafts) / len(drafts)
        assert seen.probability(path) == pytest.approx(share, abs=1e-6)
        independent = 1.0
        for depth, rank in enumerate(path, start=1):
            independent *= drawn.share(depth, rank)
        assert drawn.probability(path) == pytest.approx(independent, rel=1e-6)


def test_a_share_counts_the_drafts_that_were_right_so_far():
    probabilities = probabilities_from([(0, 1), (0, 0), (2, 1), ()], 1.0)
    assert probabilities.share(1, 0) == pytest.approx((2 + 0.1) / (4 + 0.3))
    assert probabilities.share(2, 1) == pytest.approx((2 + 0.1) / (3 + 0.3))  # whatever the first rank
    assert probabilities.share(9, 0) == 1 / 3


@given(DRAFTS, WEIGHT, st.integers(1, 3), st.integers(1, 2))
def test_rows_limit_the_nodes_with_children_where_passes_begin(drafts, weight, rows, k):
    found = likeliest_paths(probabilities_from(drafts, weight), 30, DEPTH, k, rows)
    shape = TreeShape.from_paths(one.path for one in found)
    with_children = Counter(len(path) for path in {path[:-1] for path in shape.paths})
    assert all(with_children[depth] <= rows for depth in range(k, DEPTH, k))
    for depth in range(k, DEPTH, k):
        level = [one.path for one in found if len(one.path) == depth]
        assert {path[:-1] for path in shape.paths if len(path) == depth + 1} <= set(level[:rows])
    assert likeliest_paths(probabilities_from(drafts, weight), 30, DEPTH, k, rows=99) == likeliest_paths(
        probabilities_from(drafts, weight), 30, DEPTH, k
    )


def test_rows_count_at_each_depth_of_its_own():
    probabilities = probabilities_from(
        [(rank, other, third) for rank in range(3) for other in range(3) for third in range(3)], 1.0
    )
    shape = TreeShape.from_paths(one.path for one in likeliest_paths(probabilities, 39, DEPTH, 1, rows=2))
    assert Counter(shape.depths) == {0: 1, 1: 3, 2: 6, 3: 6}  # two rows at depth 1, two at depth 2
    between = TreeShape.from_paths(one.path for one in likeliest_paths(probabilities, 39, DEPTH, 2, rows=1))
    assert Counter(between.depths) == {0: 1, 1: 3, 2: 9, 3: 3}  # no pass begins at depth 1


def test_paths_whose_end_is_unknown_are_left_out():
    complete = [RankPath((0, 1), True), RankPath((2,), True)]
    torn = [RankPath((1, 1), False), RankPath((), False)]
    assert PathProbabilities.of([*complete, *torn], DEPTH, WIDTH, 4.0) == PathProbabilities.of(
        complete, DEPTH, WIDTH, 4.0
    )
    texts = [RankedText(3, tuple(complete)), RankedText(9, tuple(torn))]
    assert probabilities_of(texts, DEPTH, WIDTH, 4.0).counts == {(): 2, (0,): 1, (0, 1): 1, (2,): 1}


def test_counts_end_at_the_depth_asked_for():
    assert PathProbabilities.of([RankPath((0, 1, 2), True)], 2, WIDTH, 1.0).counts == {(): 1, (0,): 1, (0, 1): 1}


def independent(rng):
    """Ranks that know nothing of each other."""
    ranks = rng.choices(range(5), [0.4, 0.2, 0.12, 0.08, 0.2], k=4)
    return tuple(ranks[: ranks.index(4)] if 4 in ranks else ranks)


def dependent(rng):
    """Ranks that follow from the first."""
    first = rng.randrange(4)
    return (first, (first + 1) % 4, (first + 2) % 4, first) if rng.random() < 0.9 else (first,)


def texts_of(draw, texts, drafts, seed):
    rng = Random(seed)
    return [RankedText(4, tuple(RankPath(draw(rng), True) for _ in range(drafts))) for _ in range(texts)]


@pytest.mark.parametrize("seed", range(3))
def test_few_independent_drafts_take_a_large_weight_many_dependent_ones_a_small(seed):
    few = cross_validated(texts_of(independent, 8, 15, seed), 4, 4, 2)
    many = cross_validated(texts_of(dependent, 16, 60, seed), 4, 4, 2)
    assert many == WEIGHTS[0] < WEIGHTS[2] < few
    assert few in WEIGHTS


def test_one_text_alone_takes_a_weight_in_the_middle():
    assert cross_validated(texts_of(independent, 1, 50, 0), 4, 4, 2) == WEIGHTS[len(WEIGHTS) // 2]
