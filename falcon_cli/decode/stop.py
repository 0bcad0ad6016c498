"""When an answer ends: at a stop token, at a stop string, or at its length limit."""

from collections.abc import Callable, Collection, Sequence

from falcon_cli.decode.stats import Finish

TAIL = 64
"""Tokens decoded to look for a stop string; it must be longer than any stop string's tokens."""


class Stop:
    """Follows one answer and cuts it where it ends.

    Args:
        ids: Tokens that end the answer (they are kept as its last token).
        max_new_tokens: Length limit, the prefill's own token included.
        strings: Texts that end the answer; the token that completes one is kept as the last.
        decode: Token ids → text; needed with `strings`.
    """

    def __init__(
        self,
        ids: Collection[int],
        max_new_tokens: int,
        strings: Sequence[str] = (),
        decode: Callable[[list[int]], str] | None = None,
    ):
        self.ids, self.room = frozenset(ids), max_new_tokens
        self.strings, self.decode = tuple(strings), decode
        self.finish: Finish | None = None
        self._tail: list[int] = []

    def take(self, tokens: Sequence[int]) -> list[int]:
        """The part of these new tokens that belongs to the answer; sets `finish` when they end it."""
        kept: list[int] = []
        for token in tokens:
            if self.finish is not None:
                break
            kept.append(token)
            self.room -= 1
            if token in self.ids or self._completes_string(token):
                self.finish = "stop"
            elif self.room == 0:
                self.finish = "length"
        return kept

    def _completes_string(self, token: int) -> bool:
        if not self.strings or self.decode is None:
            return False
        self._tail = [*self._tail[1 - TAIL :], token]
        return any(string in self.decode(self._tail) for string in self.strings)


def cut_at(text: str, strings: Sequence[str]) -> str:
    """Text before the first of the stop strings in it."""
    found = [place for place in map(text.find, strings) if place >= 0]
    return text[: min(found)] if found else text
