"""What all recipes check of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from falcon_cli.errors import FalconError


@dataclass(frozen=True)
class Recipe:
    """A part of a recipe; a field whose type is a `Literal` holds one of its values.

    Raises:
        FalconError: It does not.
    """

    def __post_init__(self) -> None:
        for name, choices in _choices(type(self)).items():
            if getattr(self, name) not in choices:
                raise FalconError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)}")


def _choices(kind: type) -> dict[str, tuple[str, ...]]:
    hints = get_type_hints(kind)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def at_least(recipe: Any, least: int, *names: str) -> None:
    """Check that each named field is `least` or more, or None.

    Raises:
        FalconError: It names the first that is not.
    """
    for name in names:
        value = getattr(recipe, name)
        if value is not None and value < least:
            raise FalconError(f"{name} must be at least {least}, not {value}")


def within(recipe: Any, least: float, most: float, *names: str) -> None:
    """Check that each named field is between `least` and `most`.

    Raises:
        FalconError: It names the first that is not.
    """
    for name in names:
        value = getattr(recipe, name)
        if not least <= value <= most:
            raise FalconError(f"{name} must be between {least} and {most}, not {value}")
