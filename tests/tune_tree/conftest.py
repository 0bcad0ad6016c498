"""The result of a tuning that never happened: two drafters, their trees searched and run."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from falcon_cli.costs.table import CostTable, DraftCost
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath
from falcon_cli.tune_tree.measure.validation import PLAIN, MeasuredSpeed
from falcon_cli.tune_tree.result import DrafterSource, TuningResult
from falcon_cli.tune_tree.search.candidates import DrafterProfile, candidates, finalists
from falcon_cli.tune_tree.search.copies import CopyCandidate
from falcon_cli.tune_tree.search.search import BUILT_IN, COPIES_SO_FAR, CURRENT, DYNAMIC, TreeSearch

POLICY_SO_FAR = CopyCandidate(2, CopyPolicy(3, 7, TreeShape(())), 1.2, 24.0)


def _profile(k: int, seed: int) -> DrafterProfile:
    """Three rank paths in four go on at every depth; the end of each text's last is unknown."""
    rng = Random(seed)
    paths = [(tuple(rng.choice((0, 0, 1, 3)) for _ in range(rng.choice((0, 1, 2, 4))))) for _ in range(99)]
    text = RankedText(9, (*(RankPath(path, True) for path in paths), RankPath((), False)))
    return DrafterProfile(k, True, (text, text), 4, 16.0, 2)


def _search(node_ms: float) -> TreeSearch:
    verify = {64: {1: 20.0, 65: 20.0 + 64 * node_ms}}
    costs = CostTable("a CPU", "tiny", "fp32", verify, dict.fromkeys((1, 2), DraftCost(1, 1, 0.1, 0.5, 0.1)), 0.5)
    profiles = {k: _profile(k, seed=k) for k in (1, 2)}
    trees = [tree for profile in profiles.values() for tree in candidates(profile, costs, 80.0, 32, 2)]
    best = tuple(finalists(trees, 2)[:2])
    unplaced = [tree for tree in trees if tree.k == 2 and tree.shape not in [finalist.shape for finalist in best]]
    policies = [CopyCandidate(k, CopyPolicy(ngram, 5, best[0].shape), 2.5, 25.0) for k, ngram in ((2, 2), (1, 3))]
    return TreeSearch(
        costs=costs,
        context=80.0,
        profiles=profiles,
        trees=tuple(trees),
        finalists=best,
        other_trees={CURRENT: unplaced[0], BUILT_IN: unplaced[-1]},
        copy_candidates={**{policy.name: policy for policy in policies}, COPIES_SO_FAR: POLICY_SO_FAR},
    )


@pytest.fixture(scope="session")
def tuning_result() -> Callable[..., TuningResult]:
    """Build a result: `tuning_result(folder, tree_speeds=(20, 30, 15, 12, 18))`.

    `tree_speeds` are the measured tokens a second of the two finalists, the tree so far, the built-in tree and the
    dynamic tree; `copy_speeds` those of the copy policies; plain decoding's are 10. Without `tree_speeds` nothing ran.
    Each node adds `node_ms` to a cycle. `alike` of seven answers are plain decoding's.
    """

    def build(
        folder: Path,
        tree_speeds: tuple[float, ...] = (),
        node_ms: float = 0.5,
        alike: int = 7,
        copy_speeds: tuple[float, ...] = (31.0, 33.0, 32.0),
    ) -> TuningResult:
        search = _search(node_ms)
        measured = {}
        if tree_speeds:
            trees = [*(tree.name for tree in search.finalists), *search.other_trees, DYNAMIC]
            speeds = {
                **dict(zip(trees, tree_speeds, strict=True)),
                **dict(zip(search.copy_candidates, copy_speeds, strict=True)),
            }
            measured = {PLAIN: MeasuredSpeed(10.0, 1.0, 1.0, 7, 7)}
            measured |= {name: MeasuredSpeed(speed, 1.5, speed / 10, alike, 7) for name, speed in speeds.items()}
        return TuningResult(
            recipe=TuneTreeRecipe(dataset="gsm8k", passes=2),
            setting=Setting("a CPU", "tiny", "fp32", "native", 2),
            drafters=dict.fromkeys((1, 2), DrafterSource("abc", Path("/home/me/drafters/mine"))),
            search=search,
            measured=measured,
            folder=folder,
            argv=("falcon", "tune-tree", "--out", "/home/me/here"),
        )

    return build
