from itertools import combinations, pairwise
from random import Random

import pytest

from falcon_cli.costs.table import CostTable, DraftCost
from falcon_cli.tree.likeliest import ScoredPath
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath
from falcon_cli.tune_tree.search.candidates import (
    DrafterProfile,
    TreeCandidate,
    candidates,
    finalists,
    frontier,
    predicted,
    predicted_tokens_per_cycle,
    tree_of,
)

FREE = DraftCost(0, 0, 0, 0, 0)


def table(node_ms, draft=FREE):
    """Ten milliseconds, and so many more for each node."""
    verify = {nodes: 10 + node_ms * (nodes - 1) for nodes in (1, 129)}
    return CostTable("", "", "", {64: verify}, {1: draft, 2: draft}, rest=1.0)


def texts(seed=0, drafts=300):
    """Two texts of random rank paths, three in four drafts right at every depth."""
    rng = Random(seed)
    found = []
    for _ in range(2):
        paths = []
        for _ in range(drafts):
            length = next((depth for depth in range(4) if rng.random() > 0.75), 4)
            paths.append(RankPath(tuple(min(int(rng.expovariate(1)), 7) for _ in range(length)), True))
        found.append(RankedText(5, tuple(paths)))
    return tuple(found)


PROFILE = DrafterProfile(k=2, chained=True, texts=texts(), width=8, weight=4.0, passes=2)


def fastest(prices):
    return finalists(candidates(PROFILE, prices, 64, nodes=128, passes=2), 1)[0]


def test_where_nodes_are_free_the_largest_tree_wins_where_they_are_dear_a_small_one():
    assert fastest(table(0)).nodes == 128
    assert 1 < fastest(table(1)).nodes < 24
    assert fastest(table(100)).nodes == 1


def test_where_passes_are_dear_one_is_run():
    assert fastest(table(0.5)).passes == 2
    assert fastest(table(0.5, DraftCost(1, 50, 0, 0, 0))).passes == 1


def test_where_rows_are_dear_few_are_run():
    dear, cheap = (fastest(table(0.05, DraftCost(0, 0, row_ms, 0, 0))) for row_ms in (0.5, 0.1))
    assert (dear.passes, dear.rows) == (2, 1)
    assert (cheap.passes, cheap.rows) == (2, 2)


def test_candidates_are_trees_once_each_with_their_price_and_chances():
    prices = table(0.5, DraftCost(1, 2, 0.5, 0.3, 0.1))
    found = candidates(PROFILE, prices, 64, nodes=20, passes=2)
    assert len({one.shape for one in found}) == len(found)
    assert {one.nodes for one in found} == {*range(1, 17), 18, 20}
    assert {one.passes for one in found} == {1, 2}
    for one in found:
        passes = passes_of(one.shape, 2, chained=True)
        assert (one.nodes, one.passes) == (len(one.shape.paths), len(passes))
        assert one.cycle_ms == pytest.approx(prices.cycle_ms(passes, one.nodes + 1, 2, 64))
        assert one.tokens_per_second == pytest.approx(1000 * one.tokens_per_cycle / one.cycle_ms)
        probabilities = PROFILE.probabilities(one.shape.height)
        assert one.probabilities == pytest.approx([1.0, *map(probabilities.probability, one.shape.paths)])
        assert one.tokens_per_cycle == pytest.approx(sum(one.probabilities))
        begins = {path[:-1] for path in one.shape.paths if len(path) == 3}
        assert one.rows is None or len(begins) <= one.rows


def made(nodes, speed, k=2, passes=1):
    """A candidate of a size and a speed."""
    return TreeCandidate(k, passes, None, TreeShape.from_paths((rank,) for rank in range(nodes)), (), speed, 1000.0)


def test_the_frontier_holds_the_fastest_of_each_size():
    found = [made(4, 3), made(2, 5), made(4, 9), made(2, 1), made(7, 2)]
    assert frontier(found) == [found[1], found[2], found[4]]
    assert frontier([]) == []


def test_finalists_are_the_fastest_that_are_not_alike_and_the_best_of_each_k():
    first, near, far = made(20, 9), made(17, 8), made(10, 7)
    other_passes, other_k, far_k = made(20, 6, passes=2), made(20, 5, k=1), made(9, 4, k=1)
    found = [far, far_k, other_passes, near, first, other_k]
    assert finalists(found, 9) == [first, far, other_passes, other_k, far_k]
    assert finalists(found, 2) == [first, far, other_k]
    assert finalists(found, 1) == [first, other_k]
    assert finalists([], 2) == []


def test_no_two_finalists_of_a_search_are_alike():
    found = candidates(PROFILE, table(0.1), 64, nodes=128, passes=2)
    best = finalists(found, 5)
    assert len(best) == 5
    assert best[0] == max(found, key=lambda one: one.tokens_per_second)
    assert all(one.tokens_per_second >= other.tokens_per_second for one, other in pairwise(best))
    for one, other in combinations(best, 2):
        assert one.passes != other.passes or abs(one.nodes - other.nodes) > 0.2 * max(one.nodes, other.nodes)


def same(ranks, drafts=20):
    return RankedText(3, tuple(RankPath(ranks, True) for _ in range(drafts)))


def test_what_is_predicted_of_a_text_is_not_learned_from_it():
    """Every other text takes rank 0, the others rank 1: fitted to the others, a tree never fits."""
    profile = DrafterProfile(2, True, (same((0, 0)), same((1, 1)), same((0, 0)), same((1, 1))), 4, 1.0, 2)
    (candidate,) = [one for one in candidates(profile, table(0), 64, 2, 1) if one.nodes == 2]
    assert predicted_tokens_per_cycle(profile, candidate, folds=2) == 1.0
    alike = DrafterProfile(2, True, (same((1, 1)),) * 4, 4, 1.0, 2)
    assert predicted_tokens_per_cycle(alike, candidate, folds=2) > 2.8  # 3 but for the last cycle of a text


def test_one_text_alone_is_judged_by_itself_and_none_gives_one_token():
    (candidate,) = [one for one in candidates(PROFILE, table(0), 64, 2, 1) if one.nodes == 2]
    assert predicted_tokens_per_cycle(DrafterProfile(2, True, (same((1, 1)),), 4, 1.0, 2), candidate) > 2.8
    assert predicted_tokens_per_cycle(DrafterProfile(2, True, (), 4, 1.0, 2), candidate) == 1.0


def test_what_is_predicted_keeps_to_the_rows_of_the_candidate():
    profile = DrafterProfile(1, True, (same((0, 0)), same((1, 0))) * 4, 2, 1.0, 2)
    found = candidates(profile, table(0), 64, nodes=4, passes=2)
    few, all_rows = (next(one for one in found if one.nodes == 4 and one.rows == rows) for rows in (1, 2))
    assert predicted_tokens_per_cycle(profile, few) < predicted_tokens_per_cycle(profile, all_rows)


def test_the_best_of_each_size_and_passes_are_predicted_the_others_left_out():
    found = candidates(PROFILE, table(0.5, DraftCost(0, 0, 1, 0, 0)), 64, nodes=16, passes=2)
    kept = predicted(PROFILE, found)
    assert len({(one.passes, one.nodes) for one in kept}) == len(kept) < len(found)
    for one in kept:
        rivals = [other for other in found if (other.passes, other.nodes) == (one.passes, one.nodes)]
        best = max(rivals, key=lambda other: other.tokens_per_second)
        assert (one.shape, one.cycle_ms, one.rows) == (best.shape, best.cycle_ms, best.rows)
        assert one.tokens_per_cycle == predicted_tokens_per_cycle(PROFILE, best) != best.tokens_per_cycle
    assert {(one.passes, one.nodes) for one in found} == {(one.passes, one.nodes) for one in kept}


def test_chances_stand_in_the_order_of_the_nodes():
    likely = [
        ScoredPath((1,), 0.5),
        ScoredPath((1, 0), 0.4),
        ScoredPath((0,), 0.3),
        ScoredPath((1, 0, 2), 0.2),
        ScoredPath((0, 3), 0.1),
    ]
    shape, probabilities = tree_of(likely)
    assert shape.paths == ((0,), (1,), (0, 3), (1, 0), (1, 0, 2))
    assert probabilities == (1.0, 0.3, 0.5, 0.1, 0.4, 0.2)


def test_names_tell_trees_apart_and_read_well():
    assert made(1, 1.0).name == "k = 2, 1 node, 1 pass"
    assert made(7, 1.0, k=1, passes=3).name == "k = 1, 7 nodes, 3 passes"
