"""YAML becomes nested frozen dataclasses, and back.

Field types may be bool, int, float, str, Literal, another dataclass, `X | None`, `list[X]`, `tuple[X, ...]` and
`tuple[X, Y]`. Nothing is converted silently except a whole number where a fraction is asked for, and `3e-5`, which YAML
takes for text.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.spelling import did_you_mean

T = TypeVar("T")


def load_recipe(cls: type[T], path: Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Read a recipe.

    Args:
        cls: the dataclass to fill.
        path: a YAML file; None means all defaults.
        overrides: `a.b=c` each, the value in YAML; they win over the file.

    Raises:
        FalconError: naming the file (or `--set`), the dotted key and what is wrong there.
        UsageError: an override that is not of the form `a.b=c`.
    """
    values = {} if path is None else _read(path)
    changed = [_override(values, override) for override in overrides]

    def source(key: str) -> str:
        own = path is None or any(f"{key} ".startswith((f"{one} ", f"{one}.")) for one in changed)
        return f"--set {key}" if own else f"{path}: {key}"

    return _Builder(source).dataclass(cls, values, "")


def dump(recipe: Any) -> str:
    """Return a recipe as YAML with every field written out; `load_recipe` reads it back to an equal one."""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise FalconError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise FalconError(f"{_place(path, error)}: not YAML: {_problem(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise FalconError(f"{path}: a recipe is a mapping of keys to values, not {_kind(values)}")
    return values


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return str(path) if mark is None else f"{path}:{mark.line + 1}"


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable text")


def _override(values: dict[str, Any], override: str) -> str:
    """Write one `a.b=c` into `values` and return its dotted key."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise UsageError(f'--set takes key=value, as in --set target.dtype=fp32, not "{override}"')
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is not YAML: {_problem(error)}") from error
    for name in names[:-1]:
        if values.get(name) is None:
            values[name] = {}
        values = values[name]
        if not isinstance(values, dict):
            raise UsageError(f"--set {override}: {name} is not a mapping of keys to values")
    values[names[-1]] = value
    return ".".join(names)


@dataclasses.dataclass(frozen=True)
class _Builder:
    """Makes typed values of what YAML gave."""

    source: Callable[[str], str]
    """Dotted key → where it was written, for messages."""

    def dataclass(self, cls: Any, value: Any, key: str) -> Any:
        if not isinstance(value, dict):
            raise self.wrong(key, "a mapping of keys to values", value)
        hints = get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for name in value:
            if name not in fields:
                raise FalconError(f"{self.source(_dotted(key, name))}: unknown key{did_you_mean(str(name), fields)}")
        for name, field in fields.items():
            if name not in value and field.default is field.default_factory is dataclasses.MISSING:
                raise FalconError(f"{self.source(_dotted(key, name))}: must be given")
        arguments = {name: self.value(hints[name], value[name], _dotted(key, name)) for name in value}
        try:
            return cls(**arguments)
        except FalconError as error:  # the dataclass checks its own numbers, knowing neither file nor key
            raise FalconError(f"{self.source(_dotted(key, str(error)))}") from error

    def value(self, kind: Any, value: Any, key: str) -> Any:
        origin = get_origin(kind)
        if dataclasses.is_dataclass(kind):
            return self.dataclass(kind, value, key)
        if origin in (Union, types.UnionType):
            return self.optional(kind, value, key)
        if origin in (list, tuple):
            return self.sequence(kind, value, key)
        if origin is Literal:
            return self.choice(get_args(kind), value, key)
        return self.scalar(kind, value, key)

    def optional(self, kind: Any, value: Any, key: str) -> Any:
        """Take `X | None`."""
        if value is None:
            return None
        (inner,) = (option for option in get_args(kind) if option is not type(None))
        return self.value(inner, value, key)

    def sequence(self, kind: Any, value: Any, key: str) -> Any:
        if not isinstance(value, list):
            raise self.wrong(key, "a list", value)
        kinds = get_args(kind)
        if get_origin(kind) is list or kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise self.wrong(key, f"a list of {len(kinds)} values", value)
        pairs = zip(kinds, value, strict=True)
        items = [self.value(one, item, f"{key}.{place}") for place, (one, item) in enumerate(pairs)]
        return get_origin(kind)(items)

    def choice(self, choices: tuple[Any, ...], value: Any, key: str) -> Any:
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return value
        raise self.wrong(key, f"one of {', '.join(map(str, choices))}", value)

    def scalar(self, kind: type, value: Any, key: str) -> Any:
        if kind is float:
            value = _number(value)
        if type(value) is kind:
            return value
        quoted = " (put it in quotes)" if kind is str and value is not None else ""
        raise self.wrong(key, _NAMES[kind] + quoted, value)

    def wrong(self, key: str, wanted: str, value: Any) -> FalconError:
        return FalconError(f"{self.source(key)}: must be {wanted}, not {_kind(value)}")


_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _number(value: Any) -> Any:
    """Return a float for a finite number, or for the text of one; anything else as no float."""
    if type(value) not in (int, float, str):
        return value
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return value
    return number if math.isfinite(number) else str(value)


def _dotted(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _kind(value: Any) -> str:
    """Describe a value that does not fit."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return "empty" if value is None else yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts and tuples as lists, as YAML knows them."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
