"""Which texts make up each optimizer step, and how they become tensors.

Everything random is a function of (seed, epoch, step, text) alone, so that a resumed run and a run on more processes
draw the same batches, phases, noise and glances. A step's batch is shared out: over processes first, then over forwards
of at most `micro_tokens`.

Shapes: B batch, L input positions (a text of n tokens has n − 1: feature i with token i + 1), D hidden size, C tokens
kept of the target's distribution.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from falcon_cli.distill.features.extract import TextFeatures, padded_batches

_BUCKET = 16
"""Batches whose texts are sorted by length together."""


@dataclass(frozen=True)
class Batch:
    """Padded inputs of several texts and what each position is to learn."""

    numbers: tuple[int, ...]
    """Which texts."""
    begin_B: Tensor
    """Each text's first token, which is no input: no feature goes before it."""
    tokens_BL: Tensor
    """Input token of position i: the text's token i + 1."""
    features_BLD: Tensor
    """Input feature of position i, and what position i − k is to predict."""
    length_B: Tensor
    """Positions of each text."""
    answer_BL: Tensor
    """Boolean: the token that position i stands for (the text's i + 1) is an answer's."""
    top_ids_BLC: Tensor
    """After input position i: the target's view of the token that follows."""
    top_logprobs_BLC: Tensor


class Schedule:
    """The batches of a whole training run.

    Args:
        lengths: Tokens of each text.
        batch_tokens: Tokens of a step, padding included.
        seed: Where the order comes from.
    """

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int):
        self.lengths, self.batch_tokens, self.seed = list(lengths), batch_tokens, seed
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self._begin = [0]
        """First step of each epoch known so far."""

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps of so many epochs, judged by the first one."""
        return max(1, round(len(self.epoch(0)) * epochs))

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch: texts of like length together, the batches in drawn order."""
        if self._epoch[0] != number:
            self._epoch = (number, self._draw(number))
        return self._epoch[1]

    def step(self, step: int) -> list[int]:
        """The texts of an optimizer step, counted from 0 over all epochs."""
        epoch = 0
        while True:
            if epoch + 1 < len(self._begin) and self._begin[epoch + 1] <= step:
                epoch += 1
                continue
            batches = self.epoch(epoch)
            if epoch + 1 == len(self._begin):
                self._begin.append(self._begin[epoch] + len(batches))
            if step < self._begin[epoch + 1]:
                return batches[step - self._begin[epoch]]
            epoch += 1

    def _draw(self, number: int) -> list[list[int]]:
        draw = Random(f"{self.seed}/{number}")
        order = list(range(len(self.lengths)))
        draw.shuffle(order)
        mean = sum(self.lengths) / len(self.lengths)
        width = max(1, int(_BUCKET * self.batch_tokens / mean))
        batches: list[list[int]] = []
        for begin in range(0, len(order), width):
            bucket = sorted(order[begin : begin + width], key=lambda text: self.lengths[text])
            batches += padded_batches(bucket, self.lengths, self.batch_tokens)
        draw.shuffle(batches)
        return batches


def share(batch: Sequence[int], lengths: Sequence[int], limit: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """This process's part of a step's texts, cut into forwards of at most `limit` tokens with padding."""
    mine = sorted(batch, key=lambda text: lengths[text])[rank::world]
    return list(padded_batches(mine, lengths, limit))


def collate(numbers: Sequence[int], texts: Sequence[TextFeatures], device: torch.device, dtype: torch.dtype) -> Batch:
    """Pad lessons into one batch."""
    length = max(len(text.tokens_L) for text in texts) - 1
    size = len(texts)
    hidden, top = texts[0].features_LD.shape[1], texts[0].top_ids_LC.shape[1]
    tokens = torch.zeros(size, length, dtype=torch.long)
    features = torch.zeros(size, length, hidden, dtype=dtype)
    answer = torch.zeros(size, length, dtype=torch.bool)
    top_ids = torch.zeros(size, length, top, dtype=torch.long)
    top_logprobs = torch.full((size, length, top), float("-inf"))
    for row, text in enumerate(texts):
        own = len(text.tokens_L) - 1
        tokens[row, :own] = text.tokens_L[1:]
        features[row, :own] = text.features_LD[:-1]
        answer[row, :own] = text.answer_L[1:]
        top_ids[row, :own] = text.top_ids_LC[:-1]
        top_logprobs[row, :own] = text.top_logprobs_LC[:-1].float()
    return Batch(
        numbers=tuple(numbers),
        begin_B=torch.stack([text.tokens_L[0].long() for text in texts]).to(device),
        tokens_BL=tokens.to(device),
        features_BLD=features.to(device),
        length_B=torch.tensor([len(text.tokens_L) - 1 for text in texts], device=device),
        answer_BL=answer.to(device),
        top_ids_BLC=top_ids.to(device),
        top_logprobs_BLC=top_logprobs.to(device),
    )


def generator_of(seed: int, *words: object) -> torch.Generator:
    """A generator that depends on these words alone, whatever was drawn before."""
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def loss_positions_BL(batch: Batch, k: int) -> Tensor:
    """Boolean [B, L]: position i bears a loss, that is position i + k stands for an answer's token."""
    ahead = torch.zeros_like(batch.answer_BL)
    ahead[:, : max(0, ahead.shape[1] - k)] = batch.answer_BL[:, k:]
    return ahead
