"""Tokens become text as they come, each character knowing whether it was drafted.

A character may take several tokens, so text is released only when it decodes cleanly; and when stop strings are given,
only when it can no longer be the beginning of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from falcon_cli.decode.stop import cut_at

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Piece:
    """A run of text, drafted and accepted or the target's own."""

    text: str
    drafted: bool


class TextStream:
    """Decodes one answer incrementally.

    Args:
        tokenizer: The target's.
        stop_strings: The text ends before the first of them.
    """

    def __init__(self, tokenizer: Any, stop_strings: Sequence[str] = ()):
        self.tokenizer, self.stop_strings = tokenizer, tuple(stop_strings)
        self.text = ""
        """All text so far, stop strings not cut yet."""
        self._drafted: list[bool] = []
        self._held = max((len(string) for string in stop_strings), default=1) - 1
        self._ids: list[int] = []
        self._begin, self._clean, self._released = 0, 0, 0

    def push(self, tokens: Sequence[int], drafted: int) -> Iterator[Piece]:
        """New tokens, the first `drafted` of them drafted and accepted; yields the text that can be shown now."""
        for place, token in enumerate(tokens):
            self._ids.append(token)
            self._decode(place < drafted)
        yield from self._release(len(cut_at(self.text, self.stop_strings)), len(self.text) - self._held)

    def finish(self) -> Iterator[Piece]:
        """The rest, once no more tokens come."""
        self._decode(False, last=True)
        end = len(cut_at(self.text, self.stop_strings))
        yield from self._release(end, end)

    def _decode(self, drafted: bool, last: bool = False) -> None:
        """Decode the tokens since the last clean place.

        The run of tokens before that place is decoded with them, for some tokenizers drop a text's first space. It
        begins at a clean place itself: half a character in front would spoil the next one.

            begin        clean
            [ context ]  [ new ... ]        text += decode(context + new) without decode(context)
        """
        before = self._to_text(self._ids[self._begin : self._clean])
        after = self._to_text(self._ids[self._begin :])
        if after.endswith(UNFINISHED) and not last:
            return
        new = after[len(before) :]
        self.text += new
        self._drafted += [drafted] * len(new)
        if new.strip(" "):  # else, as after a special token, the next text would still come first
            self._begin = self._clean
        self._clean = len(self._ids)

    def _to_text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _release(self, *ends: int) -> Iterator[Piece]:
        begin, end = self._released, min(ends)
        if end <= begin:
            return
        self._released = end
        for drafted, run in groupby(range(begin, end), key=self._drafted.__getitem__):
            places = list(run)
            yield Piece(self.text[places[0] : places[-1] + 1], drafted)
