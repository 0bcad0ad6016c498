from dataclasses import replace
from random import Random

import pytest

from falcon_cli.costs.table import CostTable, DraftCost
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath, tokens_per_cycle
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt, GreedyText
from falcon_cli.tune_tree.search.candidates import DrafterProfile
from falcon_cli.tune_tree.search.search import BUILT_IN, COPIES_SO_FAR, CURRENT, Baselines, TreeSearch, mean_context

COSTS = CostTable("a CPU", "tiny", "fp32", {64: {1: 20.0, 65: 52.0}}, {2: DraftCost(1, 1, 0.1, 0.5, 0.1)}, 0.5)
ODD = StoredTree(2, TreeShape.from_paths([(3,), (3, 3)]))
BUILT = StoredTree(2, TreeShape.from_paths([(0,), (2,), (2, 1)]))
POLICY = CopyPolicy(4, 0, TreeShape.chain(1))
RECIPE = TuneTreeRecipe(nodes=12, finalists=2)


@pytest.fixture
def calibration():
    """Four texts of sixty tokens that repeat themselves, and a drafter's ranks on them."""
    rng = Random(0)
    texts, ranked = [], []
    for number in range(4):
        answer = tuple(token % 7 for token in range(number, number + 60))
        texts.append(GreedyText(CalibrationPrompt(str(number), (1, 2, 3, 4)), answer))
        paths = (tuple(rng.choice((0, 0, 1)) for _ in range(rng.randrange(5))) for _ in answer[:-1])
        ranked.append(RankedText(4, tuple(RankPath(path, True) for path in paths)))
    return texts, {2: DrafterProfile(2, True, tuple(ranked), 4, 16.0, 2)}


def test_the_search_holds_finalists_baselines_and_copy_policies(calibration):
    texts, profiles = calibration
    search = TreeSearch.of(RECIPE, texts, profiles, COSTS, Baselines(ODD, BUILT, POLICY))
    assert search.context == mean_context(texts) == 34
    assert search.plain_tokens_per_second == pytest.approx(1000 / 20.5)
    assert max(tree.nodes for tree in search.trees) == 12
    assert set(search.finalists) < set(search.trees)
    assert list(search.other_trees) == [BUILT_IN, CURRENT]
    assert search.other_trees[CURRENT].shape == ODD.shape
    assert search.other_trees[CURRENT].tokens_per_cycle == tokens_per_cycle(profiles[2].texts, ODD.shape)
    assert list(search.contenders) == [*(tree.name for tree in search.finalists), BUILT_IN, CURRENT]
    so_far = search.copy_candidates[COPIES_SO_FAR].policy
    assert so_far == replace(POLICY, tokens=1)  # a policy that does not copy is tried with a single token
    assert len(search.copy_candidates) == 3


def test_a_baseline_that_is_plain_or_a_finalist_runs_once(calibration):
    texts, profiles = calibration
    plain = StoredTree(2, TreeShape(()))
    search = TreeSearch.of(RECIPE, texts, profiles, COSTS, Baselines(plain, BUILT, None))
    assert list(search.other_trees) == [BUILT_IN]
    assert search.copy_candidates == {}
    best = StoredTree(2, search.finalists[0].shape)
    assert TreeSearch.of(RECIPE, texts, profiles, COSTS, Baselines(best, best, None)).other_trees == {}
    twice = TreeSearch.of(RECIPE, texts, profiles, COSTS, Baselines(ODD, ODD, None))
    assert list(twice.other_trees) == [BUILT_IN]


def test_a_policy_in_use_that_is_a_candidate_runs_once(calibration):
    texts, profiles = calibration
    search = TreeSearch.of(RECIPE, texts, profiles, COSTS, Baselines(ODD, BUILT, POLICY))
    best = next(iter(search.copy_candidates.values())).policy
    again = TreeSearch.of(RECIPE, texts, profiles, COSTS, Baselines(ODD, BUILT, best))
    assert COPIES_SO_FAR not in again.copy_candidates
