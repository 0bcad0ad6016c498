"""Help with a mistyped name."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean x?)"` for the known name spelt most like `word`, or `""` where none is close."""
    nearest = get_close_matches(word.lower(), list(known), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
