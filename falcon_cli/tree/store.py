"""Trees as files: {"k": 2, "paths": [[0], [1], [0, 0]], "made_by": {…}}, and the tree when there is no file.

`k` is the drafter's: a tree's worth depends on where its passes begin. `made_by` is for people. No paths at all, with
`"plain": true` under `made_by`, says that no tree is worth its price: decode plainly. `"dynamic": true` says that the
paths are but a budget for a tree grown again in every cycle. Next to `made_by`, `"copying": {"ngram": 2, "tokens": 3,
"paths": [[0]]}` says how Falcon had best copy, and with which tree beside. Other tools' trees, bare lists of paths, are
read too; they know no k, so they are taken for any.
"""

import json
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil
from pathlib import Path as File
from typing import Any, TypeGuard

from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_file
from falcon_cli.tree.foreign import is_python, read_python
from falcon_cli.tree.shape import Path, TreeShape


@dataclass(frozen=True)
class CopyPolicy:
    """The best copying policy for `falcon:copy=auto`: how to copy where the text repeats itself."""

    ngram: int
    """Tokens that must be there again."""
    tokens: int
    """Tokens copied at most; 0 where copies are not worth their price."""
    shape: TreeShape
    """Drafted where there is nothing to copy; without paths no tree is worth its price there."""


@dataclass(frozen=True)
class StoredTree:
    """A tree with where it comes from."""

    k: int
    shape: TreeShape
    made_by: dict[str, Any] = field(default_factory=dict)
    copying: CopyPolicy | None = None
    """What was found best; None where nobody looked."""

    @property
    def plain(self) -> bool:
        """Whether decoding plainly is faster than with any tree."""
        return not self.shape.paths

    @property
    def dynamic(self) -> bool:
        """Whether the paths are only a budget."""
        return self.made_by.get("dynamic") is True

    @property
    def beside_copies(self) -> "StoredTree":
        """The tree for where there is nothing to copy."""
        return self if self.copying is None else StoredTree(self.k, self.copying.shape)


def save_tree(file: File, tree: StoredTree) -> None:
    """Write a tree, whole or not at all.

    Raises:
        FalconError: The place cannot be written.
    """
    document: dict[str, Any] = {"k": tree.k, "paths": tree.shape.paths}
    if one := tree.copying:
        document["copying"] = {"ngram": one.ngram, "tokens": one.tokens, "paths": one.shape.paths}
    document["made_by"] = tree.made_by
    with atomic_file(file) as unfinished:
        unfinished.write_text(json.dumps(document) + "\n", encoding="utf-8")


def load_tree(file: File, k: int, max_rank: int | None = None) -> StoredTree:
    """Read a tree for a drafter of k tokens a pass that gives `max_rank` choices.

    Args:
        file: In our own form; or a bare list of paths, in JSON or as `FILE.py` or `FILE.py:NAME` in Python.
        k: The drafter's.
        max_rank: Ranks must stay below this width, where given.

    Raises:
        FalconError: Names the file and what is wrong with it.
    """
    document = _document(file, k)
    paths, made_for, made_by, copying = (document.get(key) for key in ("paths", "k", "made_by", "copying"))
    if not _are_paths(paths):
        raise FalconError(f'{file} is no tree: it wants {{"k": 2, "paths": [[0], [1], [0, 0]]}} or the bare paths')
    made_by = made_by if isinstance(made_by, dict) else {}
    if not paths and made_by.get("plain") is not True:
        raise FalconError(f"{file} has no paths: give at least [0]")
    if made_for != k:
        raise FalconError(
            f"{file} is a tree for k = {made_for}, the drafter has k = {k}: tune one with falcon tune-tree"
        )
    try:
        shape = TreeShape.from_paths(paths, max_rank)
        return StoredTree(k, shape, made_by, None if copying is None else _copying(copying, max_rank))
    except FalconError as error:
        raise FalconError(f"{file}: {error}") from error


def _copying(entry: Any, max_rank: int | None) -> CopyPolicy:
    ngram, tokens, paths = (entry.get(key) if isinstance(entry, dict) else None for key in ("ngram", "tokens", "paths"))
    if type(ngram) is not int or type(tokens) is not int or ngram < 1 or tokens < 0 or not _are_paths(paths):
        raise FalconError('copying wants {"ngram": 2, "tokens": 3, "paths": [[0], [1]]}')
    return CopyPolicy(ngram, tokens, TreeShape.from_paths(paths, max_rank))


def _are_paths(paths: Any) -> TypeGuard[list[Path]]:
    return isinstance(paths, list) and all(isinstance(path, (list, tuple)) for path in paths)


def _document(file: File, k: int) -> dict[str, Any]:
    """A tree's file in our own form, whatever form it has; empty where it has none."""
    if is_python(file):
        paths, origin = read_python(file)
        return {"k": k, "paths": paths, "made_by": {"from": origin}}
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise FalconError(f"cannot read the tree {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FalconError(f"{file} is no tree: not JSON") from error
    if isinstance(document, list):
        return {"k": k, "paths": document, "made_by": {"from": file.name}}
    return document if isinstance(document, dict) else {}


def default_tree(k: int, nodes: int = 24) -> TreeShape:
    """A sensible tree for a drafter of which nothing is known but its k: the likeliest paths of a simple model.

    A node of rank r and slot s is right with probability 0.55 · 0.4^r · 0.85^(s−1), given that its parent is; the
    paths with the greatest products are taken, down to a whole number of passes and depth 4 at least: a further pass
    costs more than it finds. A product never grows on the way down, so every parent comes first.
    A fast GPU verifies more nodes for the same price, a slow machine fewer: `falcon tune-tree` measures.
    """
    paths: list[Path] = []
    heap: list[tuple[float, Path]] = [(-_chance(0, 0, k), (0,))]
    while len(paths) < nodes:
        negative, path = heappop(heap)
        paths.append(path)
        *way, rank = path
        depth = len(way)
        if len(path) < k * ceil(4 / k):
            heappush(heap, (negative * _chance(0, depth + 1, k), (*path, 0)))
        heappush(heap, (negative * _chance(rank + 1, depth, k) / _chance(rank, depth, k), (*way, rank + 1)))
    return TreeShape.from_paths(paths)


def _chance(rank: int, depth: int, k: int) -> float:
    """That a node of this rank is right when its parent is; its slot is depth (from 0) within its pass, plus 1."""
    return float(0.55 * 0.4**rank * 0.85 ** (depth % k))
