"""Which drafter, with which tree: what is given, tuned here, shipped with falcon, or built in."""

from pathlib import Path

from falcon_cli.console import warn
from falcon_cli.drafters.saved.checkpoint import SavedDrafter, read_config, shipped
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.drafters.saved.tuned import find_tree, misfit
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions
from falcon_cli.errors import UsageError
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, default_tree, load_tree


def drafter_folder(given: str | None, target_name: str, method: str = "falcon", strict: bool = True) -> Path:
    """The drafter's folder: the one given, else the one that comes with falcon for the target.

    Unless `strict`, a folder of another method's drafter counts only where nothing else is known.

    Raises:
        UsageError: Neither.
        FalconError: The folder given holds no drafter.
    """
    own = shipped(target_name, method)
    folder = Path(given).expanduser() if given else own
    if folder is None:
        raise UsageError(f"{method} needs --drafter for {target_name}: the folder of a drafter made by falcon distill")
    if not strict and own is not None and read_config(folder)["method"] != method:
        return own
    return folder


def drafter_of(saved: SavedDrafter, target: LoadedTarget, shape: TreeShape) -> TreeDrafter:
    """A saved drafter at work, with a tree.

    Raises:
        FalconError: The tree does not fit it.
    """
    return TRAINED[saved.method].drafter(saved.network, target.model, shape, saved.vocabulary_W)


def tree_for(wanted: str, folder: Path, saved: SavedDrafter, target: LoadedTarget) -> StoredTree:
    """The tree of a file, or the best one known here.

    With `auto` as it is, with `dynamic` as a budget, with `chain` one branch as long as it is high.
    """
    k, setting = saved.network.k, Setting.of(target)
    if wanted in ("auto", "chain", "dynamic"):
        tree = find_tree(folder, saved.about, k, setting) or StoredTree(k, default_tree_of(saved))
        if wanted != "auto":
            known = default_tree_of(saved) if tree.plain else tree.shape
            if wanted == "chain":
                return StoredTree(k, TreeShape.chain(known.height))
            return StoredTree(k, known, {"dynamic": True})
        return tree
    tree = load_tree(Path(wanted).expanduser(), k)
    if why := misfit(tree, saved.about, setting):
        warn(f"{wanted}: {why}; falcon tune-tree makes one for this")
    return tree


def default_tree_of(saved: SavedDrafter) -> TreeShape:
    """A sensible tree for a drafter of which no better one is known."""
    k = saved.network.k
    return TreeOptions(depth=TRAINED[saved.method].default_depth(k)).trim(default_tree(k))
