from dataclasses import replace

import pytest

from falcon_cli.tune_tree.report.document import document
from falcon_cli.tune_tree.search.search import BUILT_IN, COPIES_SO_FAR, CURRENT, DYNAMIC

SPEEDS = (20.0, 30.0, 15.0, 12.0, 18.0)


def without_copies(result):
    return replace(result, search=replace(result.search, copy_candidates={}))


def test_where_trees_ran_the_fastest_run_wins(tuning_result, tmp_path):
    result = tuning_result(tmp_path, tree_speeds=SPEEDS)
    first, second = result.search.finalists
    assert first.tokens_per_second > second.tokens_per_second  # as predicted
    assert result.winner is second
    assert result.winner_name == second.name
    assert list(result.contenders) == [first.name, second.name, DYNAMIC, CURRENT, BUILT_IN]
    assert result.tree.made_by["measured_tokens_per_second"] == 30.0
    assert result.tree.made_by["speedup_over_plain"] == 3.0
    assert (result.tree.k, result.tree.shape) == (second.k, second.shape)


@pytest.mark.parametrize(("place", "name"), [(2, CURRENT), (3, BUILT_IN), (4, DYNAMIC)])
def test_any_contender_may_win(tuning_result, tmp_path, place, name):
    result = tuning_result(tmp_path, tree_speeds=tuple(30.0 if other == place else 20.0 for other in range(5)))
    assert result.winner_name == name
    assert result.winner is {**result.search.other_trees, DYNAMIC: result.search.finalists[0]}[name]
    assert result.tree.dynamic == (name == DYNAMIC)


def test_where_none_ran_the_prediction_wins(tuning_result, tmp_path):
    result = tuning_result(tmp_path)
    assert result.search.plain_tokens_per_second == pytest.approx(1000 / 20.5)
    assert result.winner is result.search.finalists[0]
    assert DYNAMIC not in result.contenders
    assert "measured_tokens_per_second" not in result.tree.made_by


def test_where_nothing_is_faster_plain_decoding_wins(tuning_result, tmp_path):
    predicted = tuning_result(tmp_path)
    for result in (
        tuning_result(tmp_path, tree_speeds=(9.0, 8.0, 10.0, 7.0, 7.0)),
        tuning_result(tmp_path, node_ms=200.0),
        replace(predicted, search=replace(predicted.search, finalists=(), other_trees={})),
    ):
        assert result.winner is result.winner_name is None
        assert document(result)["winner"] == {"decode": "plainly"}
        assert result.tree.plain
        assert result.tree.made_by["plain"] is True


@pytest.mark.parametrize(("place", "k"), [(0, 1), (2, 2)])
def test_the_fastest_copy_policy_with_the_winners_drafter_wins(tuning_result, tmp_path, place, k):
    """The drafter of k = 1 has one policy, the fastest; that of k = 2 another and the one so far."""
    result = tuning_result(tmp_path, tree_speeds=tuple(30.0 if other == place else 20.0 for other in range(5)))
    policies = result.search.copy_candidates
    fastest = max(policies, key=result.speed)
    assert (result.k, policies[fastest].k) == (k, 1)
    assert result.copy_name == (fastest if k == 1 else COPIES_SO_FAR)
    assert result.copy_policy == policies[result.copy_name].policy == result.tree.copying
    copying = document(result)["copying"]
    assert copying["ngram"] == result.copy_policy.ngram == 3
    assert copying["tokens_per_second"] == result.speed(result.copy_name) == 10 * copying["speedup"]
    assert document(result)["copiers"][COPIES_SO_FAR]["measured_tokens_per_second"] == 32.0
    assert document(result)["copiers"][COPIES_SO_FAR]["copied"] == 7


def test_where_the_tree_alone_is_faster_nothing_is_copied(tuning_result, tmp_path):
    result = tuning_result(tmp_path, tree_speeds=SPEEDS, copy_speeds=(29.0, 29.0, 29.0))
    assert result.copy_name is None
    assert (result.copy_policy.tokens, result.copy_policy.shape) == (0, result.winner.shape)
    slow = tuning_result(tmp_path, tree_speeds=(9.0,) * 5, copy_speeds=(9.0, 9.0, 9.0))
    assert (slow.copy_policy.tokens, slow.copy_policy.shape.paths) == (0, ())
    assert without_copies(result).copy_policy is None
    assert document(without_copies(result))["copying"] is None


def test_copies_may_pay_where_no_tree_does(tuning_result, tmp_path):
    result = tuning_result(tmp_path, tree_speeds=(9.0,) * 5, copy_speeds=(12.0, 13.0, 11.0))
    assert result.winner is None
    assert result.copy_policy.tokens > 0
    assert document(result)["copying"]["speedup"] == (1.2 if result.k == 2 else 1.3)
