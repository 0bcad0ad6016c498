"""Trees as files: {"k": 2, "paths": [[0], [1], [0, 0]], "made_by": {…}}, and the tree when there is no file.

`k` is the drafter's: a tree's worth depends on where its passes begin. `made_by` is for people, but for two keys. With
no paths at all, `"plain": true` says that no tree is worth its price: decode plainly. `"dynamic": true` says that the
paths are only a budget: the tree is grown again in every cycle. Next to `made_by`, `"copying": {"ngram": 2, "tokens":
3, "paths": [[0]]}` is the best copy policy for Falcon, with the tree to draft where nothing can be copied. Other tools'
trees, bare lists of paths, are read too: they name no k, so they serve any.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path as File
from typing import Any, TypeGuard

from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_file
from falcon_cli.tree.foreign import is_python, read_python
from falcon_cli.tree.likeliest import ScoredPath, likeliest
from falcon_cli.tree.shape import Path, TreeShape


@dataclass(frozen=True)
class CopyPolicy:
    """When to copy from the text so far, and how much."""

    ngram: int
    """How many of the last tokens must have occurred before."""
    tokens: int
    """The most tokens to copy; 0 where copying is not worth its price."""
    shape: TreeShape
    """The tree drafted where there is nothing to copy; without paths, plain decoding is faster there."""


@dataclass(frozen=True)
class StoredTree:
    """A tree and where it comes from."""

    k: int
    shape: TreeShape
    made_by: dict[str, Any] = field(default_factory=dict)
    copying: CopyPolicy | None = None
    """The best copy policy; None where none was searched for."""

    @property
    def plain(self) -> bool:
        """Whether plain decoding is faster than with any tree."""
        return not self.shape.paths

    @property
    def dynamic(self) -> bool:
        """Whether the paths are only a budget."""
        return self.made_by.get("dynamic") is True

    @property
    def beside_copies(self) -> "StoredTree":
        """The tree to draft where there is nothing to copy."""
        return self if self.copying is None else StoredTree(self.k, self.copying.shape)


def save_tree(file: File, tree: StoredTree) -> None:
    """Write a tree, whole or not at all.

    Raises:
        FalconError: The place cannot be written.
    """
    document: dict[str, Any] = {"k": tree.k, "paths": tree.shape.paths}
    if policy := tree.copying:
        document["copying"] = {"ngram": policy.ngram, "tokens": policy.tokens, "paths": policy.shape.paths}
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
    """The document of a tree's file, put into our form; empty where the file holds neither a mapping nor a list."""
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
    """A sensible tree for a drafter of which nothing is known but its k: the likeliest paths of a fixed model.

    A node of rank r and slot s is right with probability 0.55 · 0.4^r · 0.85^(s−1), given that its parent is. The tree
    ends at a whole number of passes, at depth 4 or below: a further pass costs more than it finds.
    A fast GPU verifies more nodes for the same price, a slow machine fewer: `falcon tune-tree` measures.
    """
    deepest = k * ceil(4 / k)

    def successors(path: Path, probability: float) -> Iterator[ScoredPath]:
        if len(path) < deepest:
            yield ScoredPath((*path, 0), probability * _fixed_probability(0, len(path), k))
        if path:
            # Ranks have no end, so a sibling is offered only once the rank before it has been taken.
            *above, rank = path
            here, after = (_fixed_probability(number, len(above), k) for number in (rank, rank + 1))
            yield ScoredPath((*above, rank + 1), probability * after / here)

    return TreeShape.from_paths(scored.path for scored in likeliest(successors, nodes))


def ranked(shape: TreeShape, k: int) -> list[ScoredPath]:
    """The paths of a tree, likeliest first, by `default_tree`'s fixed model: every beginning of the list is a tree."""
    probability: dict[Path, float] = {(): 1.0}
    for path in shape.paths:  # parents come first
        probability[path] = probability[path[:-1]] * _fixed_probability(path[-1], len(path) - 1, k)
    scored = (ScoredPath(path, probability[path]) for path in shape.paths)
    return sorted(scored, key=lambda one: (-one.probability, len(one.path), one.path))


def _fixed_probability(rank: int, depth: int, k: int) -> float:
    """The probability that a node is right when its parent, at this depth, is right: its slot is depth mod k + 1."""
    return float(0.55 * 0.4**rank * 0.85 ** (depth % k))
