"""Trees that `falcon tune-tree` left in the cache, one for each drafter on each setting."""

from pathlib import Path
from typing import Any

from falcon_cli.sources import home
from falcon_cli.target.setting import Setting
from falcon_cli.tree.store import StoredTree, load_tree

DIGEST = 12
"""Characters of the weights' sha256 that name a drafter."""


def drafter_name(about: dict[str, Any]) -> str:
    """What a drafter's weights are called in trees and cost tables."""
    return str(about.get("weights_sha256", ""))[:DIGEST]


def tuned_file(about: dict[str, Any], setting: Setting) -> Path:
    """Where the tree tuned for a drafter on a setting lies, if there is one."""
    return home() / "trees" / f"{drafter_name(about)}-{setting.key}.json"


def misfit(tree: StoredTree, about: dict[str, Any], setting: Setting) -> str | None:
    """Why a tuned tree is not meant for what runs; None where it is, or where it does not say."""
    made_by = tree.made_by
    if made_by.get("drafter", drafter_name(about)) != drafter_name(about):
        return f"it was tuned for another drafter ({made_by['drafter']})"
    for word in ("target", "weights", "device"):
        mine = getattr(setting, word)
        if made_by.get(word, mine) != mine:
            return f"it was tuned for {made_by[word]}, this is {mine}"
    return None


def find_tree(folder: Path, about: dict[str, Any], k: int, setting: Setting) -> StoredTree | None:
    """The tree tuned here for a drafter, else the one in the drafter's folder, else None.

    Raises:
        FalconError: Either is malformed.
    """
    here = tuned_file(about, setting)
    own = folder / "tree.json"
    return next((load_tree(file, k) for file in (here, own) if file.is_file()), None)
