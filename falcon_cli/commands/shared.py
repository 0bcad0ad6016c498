"""How commands share options, and how options override a recipe."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from falcon_cli.commands import options
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.spelling import did_you_mean

RecipeType = TypeVar("RecipeType")

_RENAMED = {"target": "model", "compile_": "compile"}
"""Option of the target → its key in the recipe's part `target`, where they differ."""


@dataclass(frozen=True)
class SharedOptions:
    """The values of the options that a command shares with others; None where an option was not given."""

    values: Mapping[str, Any]

    def recipe(
        self, kind: type[RecipeType], settings: Sequence[str] = (), path: Path | None = None, **own: Any
    ) -> RecipeType:
        """The command's recipe: read from the file, overridden by `--set`, then by the other options.

        Args:
            kind: The recipe's dataclass.
            settings: `key=value` texts that `--set` overrides.
            path: The recipe's file; None takes `--recipe`.
            own: The command's own options by their keys in the recipe.

        Raises:
            UsageError: A value does not suit its key, or the recipe has no such key.
            FalconError: The file cannot be read.
        """
        from falcon_cli.recipe.load import load_recipe

        changes = [*settings, *(self.values.get("set_") or [])]
        recipe = load_recipe(kind, path or self.values.get("recipe"), changes)
        given = {name: value for name, value in self.values.items() if name not in options.RECIPE}
        return override(recipe, **given, **own)


def with_options(*groups: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups, behind its own; it takes their values as `shared`."""
    group = {name: option for part in groups for name, option in part.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            shared = SharedOptions({name: values.pop(name) for name in group})
            command(shared=shared, **values)

        own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "shared"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in group.items()
        ]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*keywords, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        return run

    return decorate


def refuse(given: dict[str, Any], kept: Collection[str], why: str) -> None:
    """Refuse options that were given (not None, not empty, not off) and are not among those kept.

    Raises:
        UsageError: Names them, after `why`.
    """
    extra = [name for name, value in given.items() if name not in kept and not _is_absent(value)]
    if extra:
        words = ", ".join("--" + name.strip("_").replace("_", "-") for name in extra)
        raise UsageError(f"{why}: leave out {words}")


def _is_absent(value: Any) -> bool:
    return value is None or value is False or value == []


def override(recipe: RecipeType, **given: Any) -> RecipeType:
    """The recipe with every option that was given (not None, not empty); the target's go into `recipe.target`.

    Raises:
        UsageError: A value does not suit its key, or the recipe has no such key.
    """
    given = {name: value for name, value in given.items() if value is not None and value != []}
    target = {_RENAMED.get(name, name): given.pop(name) for name in list(given) if name in options.TARGET}
    base: Any = recipe  # a dataclass
    known = {field.name for field in fields(base)}
    for name in given:
        if name not in known:
            raise UsageError(f"a {type(recipe).__name__} has no key {name}{did_you_mean(name, known)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        return replace(base, target=replace(base.target, **target), **values)
    except FalconError as error:
        raise UsageError(str(error)) from error
