"""What cycles cost here, measured in about a second and kept: for a target that no `falcon tune-tree` has seen.

It fills the table that `falcon tune-tree` fills, with fewer sizes, contexts and rounds.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path

from falcon_cli.console import progress
from falcon_cli.costs.measure import Rounds, chain, draft_costs, pretend, rest_cost, verify_seconds
from falcon_cli.costs.table import CostTable, DraftCost, load_costs, save_costs
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter
from falcon_cli.errors import FalconError
from falcon_cli.native.build import version
from falcon_cli.sources import home
from falcon_cli.target.model import TargetModel
from falcon_cli.target.setting import Setting

_NODES = (1, 2, 4, 8, 16, 32)
_CONTEXTS = (64, 1024)
_ROUNDS = 2
_DEAR = 4.0
"""Drafts that take so many times as long as one node are no use: larger ones are not measured."""
_UNDRAFTED = DraftCost(0, 0, 0, 0, 0)


def probed_costs(target: TargetModel, setting: Setting, tree: TreeDrafter | None, name: str) -> CostTable:
    """The costs of this setting on the kernels at hand: as probed before, or probed now.

    Args:
        target: The target.
        setting: What it runs on.
        tree: Whose drafts are timed too; None where none are drafted.
        name: Of its weights.
    """
    file = home() / "costs" / f"probe-{setting.key}-{version()}-{name or 'none'}.json"
    return _kept(file) or _probed(file, target, setting, tree)


def _kept(file: Path) -> CostTable | None:
    """None where there is none, or it is damaged."""
    try:
        return load_costs(file)
    except FalconError:
        return None


def _probed(file: Path, target: TargetModel, setting: Setting, tree: TreeDrafter | None) -> CostTable:
    room = target.context_limit - _NODES[-1] - 1
    contexts = sorted({min(context, room) for context in _CONTEXTS})
    with progress("measuring what drafts cost here (once)", len(contexts) * len(_NODES) + _ROUNDS + 2, "sizes") as bar:
        verify = {context: _verify_ms(target, context, bar.advance) for context in contexts}
        drafters = {} if tree is None else {tree.k: tree}
        plan = Rounds((contexts[0],), _NODES, _ROUNDS)
        draft = draft_costs(target, drafters, plan, bar.advance) or {1: _UNDRAFTED}
        table = CostTable(
            device=setting.device,
            target=setting.target,
            weights=setting.weights,
            verify=verify,
            draft=draft,
            rest=rest_cost(target),
            made_by={"probed": date.today().isoformat(), "setting": str(setting)},
        )
    save_costs(file, table)
    target.cache.rewind(0)
    return load_costs(file)  # rounded, as it will be read from now on


def _verify_ms(target: TargetModel, context: int, tick: Callable[[], None]) -> dict[int, float]:
    """Nodes → milliseconds to verify them, the best of a few; those that are far too dear are left out."""
    found: dict[int, float] = {}
    for nodes in _NODES:
        if len(found) < 3 or found[max(found)] < _DEAR * found[1]:
            pretend(target, context, nodes)
            draft = chain(target, nodes)
            found[nodes] = 1e3 * min(verify_seconds(target, draft, context) for _ in range(_ROUNDS + 1))
        tick()
    return found
