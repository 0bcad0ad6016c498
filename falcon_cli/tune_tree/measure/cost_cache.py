"""The costs of this machine, measured once for a setting, its kernels and its drafters, and kept in the cache."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from falcon_cli.console import progress, say
from falcon_cli.costs.measure import Rounds, draft_costs, rest_cost, verify_costs, with_interference
from falcon_cli.costs.table import CostTable, load_costs, save_costs
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter
from falcon_cli.errors import FalconError
from falcon_cli.native.build import version
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.sources import home
from falcon_cli.target.model import TargetModel
from falcon_cli.target.setting import Setting

MEASURE = "measure"
"""What `--cost` says to measure again."""
_NODES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def given_costs(recipe: TuneTreeRecipe) -> CostTable | None:
    """The table that the recipe names; None where costs are measured here.

    Raises:
        FalconError: It cannot be read.
    """
    return load_costs(Path(recipe.cost).expanduser()) if recipe.cost not in (None, MEASURE) else None


def local_costs(
    recipe: TuneTreeRecipe,
    target: TargetModel,
    setting: Setting,
    drafters: Mapping[int, TreeDrafter],
    names: Sequence[str],
) -> CostTable:
    """The costs of this setting: from the cache, or measured now and put there.

    Args:
        recipe: What to measure, and whether to measure again.
        target: The target.
        setting: What it runs on.
        drafters: k → drafter.
        names: Names of the drafters' weights.
    """
    kernels = [version()] if setting.kernels == "native" else []
    file = home() / "costs" / f"{'-'.join([setting.key, *kernels, *names, str(recipe.nodes)])}.json"
    if file.is_file() and recipe.cost != MEASURE:
        say(f"costs as measured before ({file}; --cost measure measures again)")
        return load_costs(file)
    save_costs(file, _measured(recipe, target, setting, drafters))
    return load_costs(file)  # rounded, as it will be read from now on


def check_covers(table: CostTable, drafters: Mapping[int, TreeDrafter]) -> None:
    """Check that a table knows the drafts of every drafter.

    Raises:
        FalconError: It does not.
    """
    if missing := sorted(set(drafters) - set(table.draft)):
        raise FalconError(
            f"the cost table knows drafts of k = {', '.join(map(str, sorted(table.draft)))}, not of k = {missing[0]}: "
            "add it, or leave that drafter out"
        )


def _measured(
    recipe: TuneTreeRecipe, target: TargetModel, setting: Setting, drafters: Mapping[int, TreeDrafter]
) -> CostTable:
    # A tree of n drafted nodes has n + 1 with its root.
    nodes = (*(size for size in _NODES if size <= recipe.nodes), recipe.nodes + 1)
    room = target.context_limit - max(nodes)
    contexts = tuple(sorted({min(context, room) for context in recipe.contexts}))
    plan = Rounds(contexts, nodes, recipe.rounds)
    with progress("measuring costs", plan.total, "rounds") as bar:
        table = CostTable(
            device=setting.device,
            target=setting.target,
            weights=setting.weights,
            verify=verify_costs(target, plan, bar.advance),
            draft=draft_costs(target, drafters, plan, bar.advance),
            rest=rest_cost(target),
            made_by={"measured": date.today().isoformat(), "rounds": plan.rounds, "setting": str(setting)},
        )
        return with_interference(table, target, drafters, contexts[len(contexts) // 2])
