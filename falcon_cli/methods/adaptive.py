"""How adaptive drafting is built: whose trees, which sizes, and what they cost here."""

from dataclasses import dataclass
from pathlib import Path

from falcon_cli.core import Drafter
from falcon_cli.costs.probe import probed_costs
from falcon_cli.costs.table import CostTable
from falcon_cli.drafters.adaptive.drafter import LONGEST_COPY, Adaptive, CycleCosts
from falcon_cli.drafters.falcon.propose import FalconOptions
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.saved.checkpoint import SavedDrafter, load_drafter, read_config, shipped
from falcon_cli.drafters.saved.choice import default_tree_of, drafter_of, tree_for
from falcon_cli.drafters.saved.tuned import drafter_name, tuned_file
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions
from falcon_cli.methods.build import prompt_lookup, trained
from falcon_cli.methods.context import DraftingContext
from falcon_cli.target.setting import Setting
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Drafted nodes of the trees to choose from, beside the whole one."""


@dataclass(frozen=True)
class AdaptiveOptions:
    """Settings of adaptive drafting."""

    drafter: str | None = None
    """Folder of a trained drafter, of any method; None takes --drafter, else the one shipped for the target."""
    tree: str | None = None
    """JSON file of its largest tree; None takes --tree."""


def adaptive(context: DraftingContext, name: str, options: AdaptiveOptions) -> Drafter:
    """Copies, a trained drafter's trees if there is one, or neither: whatever is worth most in each cycle.

    Where a row's scores depend on its neighbours, each run must draft the same: copies first, then the tree.

    Raises:
        FalconError: The drafter or its tree does not fit the target.
    """
    target = context.target
    given = options.drafter or context.drafter
    folder = Path(given).expanduser() if given else shipped(target.name)
    native = target.model.native
    if native is None or not native.exact:
        return _fixed(context, options, folder)
    tree, weights = None, ""
    if folder is not None:
        saved = load_drafter(folder, target)
        tree = drafter_of(saved, target, _largest(context, options, folder, saved))
        weights = drafter_name(saved.about)
    costs = probed_costs(target.model, Setting.of(target), tree, weights)
    lookup = PromptLookup(target.model.device, PldOptions(max_ngram=4, min_ngram=1, length=LONGEST_COPY))
    return Adaptive(lookup, cycle_costs(costs, tree), tree)


def cycle_costs(table: CostTable, tree: TreeDrafter | None) -> CycleCosts:
    """What cycles take, for the sizes of a tree."""

    def verify_ms(nodes: int, context: int) -> float:
        return table.verify_ms(nodes, context) + table.rest

    if tree is None:
        return CycleCosts(verify_ms)
    whole = len(tree.shape.paths)
    sizes = [*(size for size in _SIZES if size < whole), whole]
    passes = {size: passes_of(tree.part(size), tree.k, tree.chained) for size in sizes}
    return CycleCosts(verify_ms, {size: table.draft[tree.k].of(of_size) for size, of_size in passes.items()})


def _largest(context: DraftingContext, options: AdaptiveOptions, folder: Path, saved: SavedDrafter) -> TreeShape:
    """The tree that is given, or was tuned here; else the built-in one, of which parts suit many machines."""
    wanted, target = options.tree or context.tree, context.target
    if wanted == "auto" and not tuned_file(saved.about, Setting.of(target)).is_file():
        return default_tree_of(saved)
    tree = tree_for(wanted, folder, saved, target)
    return default_tree_of(saved) if tree.plain else tree.shape


def _fixed(context: DraftingContext, options: AdaptiveOptions, folder: Path | None) -> Drafter:
    if folder is None:
        return prompt_lookup(context, "pld", PldOptions())
    method = str(read_config(folder)["method"])
    kind = FalconOptions(str(folder), options.tree, copy=None) if method == "falcon" else TreeOptions(str(folder))
    return trained(context, method, kind)
