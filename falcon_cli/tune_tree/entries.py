"""The drafters that take part in a tuning, what they do without it, and their contenders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from falcon_cli.core import Drafter
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.pld import PldOptions
from falcon_cli.drafters.saved.checkpoint import SavedDrafter, load_drafter, read_config
from falcon_cli.drafters.saved.choice import default_tree_of, drafter_folder, drafter_of
from falcon_cli.drafters.saved.tuned import drafter_name, find_tree
from falcon_cli.drafters.shared.copy_first import NGRAM
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter
from falcon_cli.errors import UsageError
from falcon_cli.methods.build import with_copies
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree
from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.search.search import DYNAMIC, Baselines, TreeSearch


@dataclass(frozen=True)
class TunedDrafter:
    """A drafter that takes part."""

    folder: Path
    saved: SavedDrafter
    drafter: TreeDrafter

    @property
    def name(self) -> str:
        """The name of its weights."""
        return drafter_name(self.saved.about)


def folders_of(recipe: TuneTreeRecipe) -> list[Path]:
    """The folders of the drafters, each checked before anything is loaded.

    Raises:
        FalconError: One holds no drafter.
    """
    folders = [drafter_folder(name, recipe.target.model) for name in recipe.drafters or (None,)]
    for folder in folders:
        read_config(folder)
    return folders


def load_entries(folders: Sequence[Path], target: LoadedTarget) -> dict[int, TunedDrafter]:
    """k → its drafter, in the order given.

    Raises:
        UsageError: Two have the same k.
        FalconError: One cannot be loaded, or is not for this target.
    """
    entries: dict[int, TunedDrafter] = {}
    for folder in folders:
        saved = load_drafter(folder, target)
        k = saved.network.k
        if k in entries:
            raise UsageError(f"{entries[k].folder} and {folder} both have k = {k}: name one drafter for each k")
        entries[k] = TunedDrafter(folder, saved, drafter_of(saved, target, TreeShape.chain(k)))
    return entries


def baselines_of(entry: TunedDrafter, setting: Setting) -> Baselines:
    """What `--tree auto` and `falcon:copy=auto` take with this drafter before the tuning.

    Raises:
        FalconError: The tree that it uses is malformed.
    """
    k = entry.drafter.k
    built_in = StoredTree(k, default_tree_of(entry.saved))
    current = find_tree(entry.folder, entry.saved.about, k, setting) or built_in
    copies = current.copying or CopyPolicy(NGRAM, PldOptions.length, current.shape)
    return Baselines(current, built_in, copies if entry.saved.method == "falcon" else None)


def current_drafter(entry: TunedDrafter, baselines: Baselines, target: LoadedTarget) -> Drafter:
    """The drafter as `--tree auto` takes it before the tuning."""
    current = baselines.current
    return Autoregressive(target.model.device) if current.plain else entry.drafter.with_tree(current.shape)


def contenders_of(search: TreeSearch, entries: Mapping[int, TunedDrafter], target: LoadedTarget) -> dict[str, Drafter]:
    """Name → drafter: plain decoding, every tree and copy policy worth a run, and the first finalist's dynamic tree."""
    plain = Autoregressive(target.model.device)
    contenders: dict[str, Drafter] = {PLAIN: plain}
    for name, tree in search.contenders.items():
        contenders[name] = entries[tree.k].drafter.with_tree(tree.shape)
    for tree in search.finalists[:1]:
        if isinstance(drafter := entries[tree.k].drafter, Falcon):
            contenders[DYNAMIC] = DynamicFalcon.of(drafter, tree.shape)
    for name, copies in search.copy_candidates.items():
        fallback = entries[copies.k].drafter.with_tree(copies.policy.shape) if copies.nodes else plain
        contenders[name] = with_copies(fallback, copies.policy, target)
    return contenders
