"""Trees as other tools keep them: bare lists of paths in a Python file.

Medusa (medusa/model/medusa_choices.py in https://github.com/FasterDecoding/Medusa) and EAGLE (eagle/model/choices.py in
https://github.com/SafeAILab/EAGLE) write theirs as literals:

    mc_sim_7b_63 = [[0], [0, 0], [1], [0, 1], …]

Such a file is parsed and never run: lists of paths are taken from it, all else is passed over.
"""

import ast
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

from falcon_cli.errors import FalconError
from falcon_cli.spelling import did_you_mean

_ENDING = ".py"
_WANTED = "[[0], [1], [0, 0]]"
_UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
"""What Python's parser raises at text that is none, or is too much for it."""


def is_python(reference: File) -> bool:
    """Whether this is `FILE.py` or `FILE.py:NAME`."""
    return _parts(reference)[0].suffix == _ENDING


def read_python(reference: File) -> tuple[list[Any], str]:
    """Read a list of paths out of a Python file: `FILE.py:NAME`, or `FILE.py` where it holds only one.

    Returns:
        The paths, and `FILE.py:NAME` with the file's bare name.

    Raises:
        FalconError: There is no such file or list, the value is no list of paths, or several lists and none is named.
    """
    file, name = _parts(reference)
    values = _literals(file)
    lists = [one for one, value in values.items() if value and is_paths(value)]
    if name is None:
        name = _only(file, lists)
    elif name not in values:
        there = f"it holds {', '.join(lists)}" if lists else "it holds no list of paths"
        raise FalconError(f"{file} has no list {name}{did_you_mean(name, lists)}: {there}")
    elif not is_paths(values[name]):
        raise FalconError(f"{name} in {file} is no list of paths: a tree is written {_WANTED}")
    return list(values[name]), f"{file.name}:{name}"


def is_paths(value: object) -> bool:
    """Whether a value is a list of lists of whole numbers (tuples do as well)."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(path, (list, tuple)) and all(type(rank) is int for rank in path) for path in value
    )


def _parts(reference: File) -> tuple[File, str | None]:
    """The file, and the list's name if there is one."""
    stem, colon, name = reference.name.rpartition(":")
    return (reference.with_name(stem), name or None) if colon and stem.endswith(_ENDING) else (reference, None)


def _only(file: File, lists: list[str]) -> str:
    if not lists:
        raise FalconError(f"{file} holds no tree: it wants a line such as NAME = {_WANTED}")
    if len(lists) > 1:
        raise FalconError(f"{file} holds several lists ({', '.join(lists)}): name one, as {file.name}:{lists[0]}")
    return lists[0]


def _literals(file: File) -> dict[str, Any]:
    """What the file's own names stand for, None where that is no literal; a later assignment wins."""
    try:
        module = ast.parse(file.read_bytes())
    except OSError as error:
        raise FalconError(f"cannot read the tree {file}: {error.strerror}") from error
    except _UNREADABLE as error:
        raise FalconError(f"{file} is no tree: not Python") from error
    return {name: _literal(value) for name, value in _assignments(module)}


def _assignments(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for line in module.body:
        if isinstance(line, ast.Assign):
            yield from ((goal.id, line.value) for goal in line.targets if isinstance(goal, ast.Name))
        elif isinstance(line, ast.AnnAssign) and line.value is not None and isinstance(line.target, ast.Name):
            yield line.target.id, line.value


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except _UNREADABLE:
        return None
