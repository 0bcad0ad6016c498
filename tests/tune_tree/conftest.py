"""A tuning that never happened: two drafters, their trees searched and run."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.cost_table import CostTable, DraftCost
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath
from falcon_cli.tune_tree.measure.validation import PLAIN, MeasuredSpeed
from falcon_cli.tune_tree.report.document import BUILT_IN, COPIES_SO_FAR, CURRENT, DYNAMIC, Tuning, name_of
from falcon_cli.tune_tree.search.candidates import DrafterProfile, candidates, finalists
from falcon_cli.tune_tree.search.copies import CopyCandidate
from falcon_cli.tune_tree.search.copies import name_of as name_of_copier

SO_FAR = CopyCandidate(2, CopyPolicy(3, 7, TreeShape(())), 1.2, 24.0)


def _drafting(k: int, seed: int) -> DrafterProfile:
    """Three rank paths in four go on at every depth; a text's last end unknown."""
    rng = Random(seed)
    paths = [(tuple(rng.choice((0, 0, 1, 3)) for _ in range(rng.choice((0, 1, 2, 4))))) for _ in range(99)]
    text = RankedText(9, (*(RankPath(one, True) for one in paths), RankPath((), False)))
    return DrafterProfile(k, True, (text, text), 4, 16.0)


@pytest.fixture(scope="session")
def tuning() -> Callable[..., Tuning]:
    """Build a tuning: `tuning(folder, speeds=(30, 20))`.

    Measured tokens a second are 10 of plain decoding, and those given: `speeds` of the finalists, the tree so far, the
    built-in one and the dynamic one in turn, and `copies` of the ways of copying; without `speeds`, nothing ran. A node
    costs `node_ms` more than none.
    """

    def build(
        folder: Path,
        speeds: tuple[float, ...] = (),
        node_ms: float = 0.5,
        alike: int = 7,
        copies: tuple[float, ...] = (31.0, 33.0, 32.0),
    ) -> Tuning:
        verify = {64: {1: 20.0, 65: 20.0 + 64 * node_ms}}
        table = CostTable("a CPU", "tiny", "fp32", verify, dict.fromkeys((1, 2), DraftCost(1, 1, 0.1, 0.5, 0.1)), 0.5)
        profiles = {k: _drafting(k, k) for k in (1, 2)}
        found = [one for profile in profiles.values() for one in candidates(profile, table, 80.0, 32, 2)]
        best = tuple(finalists(found, 2)[:2])
        shapes = [one.shape for one in best]
        fallback = [one for one in found if one.k == 2 and one.shape not in shapes]
        others = {CURRENT: fallback[0], BUILT_IN: fallback[-1]}
        ways = [CopyCandidate(k, CopyPolicy(n, 5, best[0].shape), 2.5, 25.0) for k, n in ((2, 2), (1, 3))]
        measured = {}
        if speeds:
            speeds += copies
            names = [*map(name_of, best), *others, DYNAMIC][: len(speeds) - len(copies)]
            names += [*map(name_of_copier, ways), COPIES_SO_FAR]
            measured = {PLAIN: MeasuredSpeed(10.0, 1.0, 1.0, 7, 7)}
            measured |= {
                name: MeasuredSpeed(speed, 1.5, speed / 10, alike, 7) for name, speed in zip(names, speeds, strict=True)
            }
        return Tuning(
            recipe=TuneTreeRecipe(dataset="gsm8k", passes=2),
            setting=Setting("a CPU", "tiny", "fp32", "native", 2),
            table=table,
            context=80.0,
            profiles=profiles,
            found=tuple(found),
            finalists=best,
            others=others,
            folder=folder,
            measured=measured,
            copy_candidates={**{name_of_copier(one): one for one in ways}, COPIES_SO_FAR: SO_FAR},
            drafter="/home/me/drafters/mine",
            argv=("falcon", "tune-tree", "--out", "/home/me/here"),
        )

    return build
