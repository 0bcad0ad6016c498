"""Speculative sampling with a draft model (SPS): a small causal LM of the same vocabulary drafts a chain.

Source: Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding" (ICML 2023), and Chen et
al., "Accelerating Large Language Model Decoding with Speculative Sampling" (2023); here greedy.
The draft model keeps a static cache of its own. It reads what it has not read yet, guesses one token, reads that ...:

    unread   x(n)  x(n+1)           the last accepted token (when the whole draft was accepted) and the root
    drafts             d1 d2 d3     d3 is never read, unless it is accepted
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from falcon_cli.core import Draft, Scores, Target, Verdict
from falcon_cli.errors import UsageError

STAND_IN = 0
"""The id that the draft model reads in place of one that it does not know."""


@dataclass(frozen=True)
class SpsOptions:
    """Settings of speculative sampling."""

    gamma: int = 5
    """γ: tokens drafted at most."""
    min_probability: float = 0.4
    """Stop drafting after a token that the draft model itself gives less than this; 0 never stops early."""

    def __post_init__(self) -> None:
        if self.gamma < 1 or not 0 <= self.min_probability < 1:
            raise UsageError("sps: needs gamma >= 1 and 0 <= min_probability < 1")


class RewindableTarget(Target, Protocol):
    """A target that can also forget."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""


class SpeculativeSampling:
    """A chain drafted by a small model.

    Args:
        model: The draft model.
        vocab_size: Tokens that the target can say.
        options: Settings.
        foreign: Ids that are another token, or none, to the draft model. They are never drafted, and in the text it
            reads `STAND_IN` in their place: that costs acceptance, never exactness.
    """

    def __init__(
        self, model: RewindableTarget, vocab_size: int, options: SpsOptions, foreign: Collection[int] = frozenset()
    ):
        self.model, self.vocab_size, self.options = model, vocab_size, options
        self._foreign = frozenset(foreign)
        self._never_drafted = torch.tensor(sorted(self._foreign), dtype=torch.long, device=model.device)
        self.text: list[int] = []
        self._read = 0
        """Tokens of the text that the draft model holds in its cache."""

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Let the draft model read the prompt."""
        self.text, self._read = prompt_L.tolist(), 0
        if len(self.text) < self.model.context_limit:
            self.model.prefill(torch.tensor(self._as_read(self.text), device=prompt_L.device))
            self._read = len(self.text)

    def propose(self, token: int, room: int) -> Draft:
        """The root and up to γ tokens that the draft model would say next; none where its own context ends."""
        self.text.append(token)
        drafted: list[int] = []
        readable = self.model.context_limit - len(self.text) + 1  # the last token drafted is not read
        for _ in range(min(room, self.options.gamma, readable)):
            logits_V = self._read_on(drafted)
            guess = int(logits_V.argmax())
            drafted.append(guess)
            if float(logits_V.float().softmax(-1)[guess]) < self.options.min_probability:
                break
        return Draft.chain([token, *drafted], self.model.device)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Keep the accepted part of what the draft model has read."""
        self.text.extend(verdict.accepted)
        self._read = min(self._read, len(self.text))
        self.model.rewind(self._read)

    def _read_on(self, drafted: list[int]) -> Tensor:
        """Read what is unread of text and draft; logits after its last token."""
        unread = (self.text + drafted)[self._read :]
        scores = self.model.score(Draft.chain(self._as_read(unread), self.model.device))
        self.model.commit(range(len(unread)))
        self._read += len(unread)
        logits_V = scores.logits_TV[-1, : self.vocab_size]
        if not self._foreign:
            return logits_V
        return logits_V.index_fill(0, self._never_drafted[self._never_drafted < len(logits_V)], float("-inf"))

    def _as_read(self, tokens: list[int]) -> list[int]:
        return [STAND_IN if token in self._foreign else token for token in tokens] if self._foreign else tokens
