"""Prompt lookup decoding (PLD): copy what followed the last time the text said this.

Source: Saxena, "Prompt Lookup Decoding" (2023), https://github.com/apoorvumang/prompt-lookup-decoding.
The text's last n tokens are looked up in the text itself, longest n first; what followed their latest earlier
occurrence is the draft.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.errors import UsageError


@dataclass(frozen=True)
class PldOptions:
    """Settings of prompt lookup."""

    max_ngram: int = 3
    """Longest n-gram looked up."""
    min_ngram: int = 2
    """Shortest n-gram looked up, when no longer one is found."""
    length: int = 7
    """Tokens copied at most."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_ngram <= self.max_ngram or self.length < 1:
            raise UsageError("pld: needs 1 <= min_ngram <= max_ngram and length >= 1")


class PromptLookup:
    """A chain copied from the text so far; a table of n-grams keeps every look-up constant in the text's length."""

    def __init__(self, device: torch.device, options: PldOptions):
        self.device, self.options = device, options
        self.text: list[int] = []
        self._follows: dict[tuple[int, ...], int] = {}

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Index the prompt."""
        self.reset(prompt_L.tolist())

    def reset(self, prompt: Iterable[int]) -> None:
        """Index another text."""
        self.text, self._follows = [], {}
        for token in prompt:
            self._append(token)

    def propose(self, token: int, room: int) -> Draft:
        """The root and what followed the longest known n-gram that ends in it."""
        return Draft.chain([token, *self.copied(token, min(room, self.options.length))], self.device)

    def copied(self, root: int, length: int) -> list[int]:
        """What followed the longest known n-gram that ends in the root, which the text now goes on with."""
        return self.found(root, length)[1]

    def found(self, root: int, length: int) -> tuple[int, list[int]]:
        """As `copied`, with the n-gram's length before it; 0 and nothing where none is known."""
        self._append(root)
        for n in range(min(self.options.max_ngram, len(self.text)), self.options.min_ngram - 1, -1):
            place = self._follows.get(tuple(self.text[-n:]))
            if place is not None:
                return n, self.text[place : place + length]
        return 0, []

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Index the accepted tokens."""
        for token in verdict.accepted:
            self._append(token)

    def _append(self, token: int) -> None:
        """Add a token; n-grams that end just before it now have a continuation."""
        place = len(self.text)
        for n in range(self.options.min_ngram, min(self.options.max_ngram, place) + 1):
            self._follows[tuple(self.text[place - n :])] = place
        self.text.append(token)
