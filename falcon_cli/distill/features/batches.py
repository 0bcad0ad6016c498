"""The texts of each optimizer step, and their collation into tensors.

Everything random is a function of (seed, epoch, step, text) alone, so that a resumed run and a run on more processes
draw the same batches, phases, noise and glances. A step's batch is divided over processes first, then over forwards of
at most `micro_tokens`.

Shapes: B batch, L input positions (a text of n tokens has n − 1: feature i with token i + 1), D hidden size, Z tokens
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
    """Padded inputs of several texts, and what each position learns."""

    numbers: tuple[int, ...]
    """The texts' numbers in the corpus."""
    begin_B: Tensor
    """Each text's first token, which is not an input: there is no feature before it."""
    tokens_BL: Tensor
    """Input token of position i: the text's token i + 1."""
    features_BLD: Tensor
    """Input feature of position i, which is also what position i − k learns to predict."""
    length_B: Tensor
    """Positions of each text."""
    answer_BL: Tensor
    """Boolean: the input token of position i belongs to an answer."""
    top_ids_BLZ: Tensor
    """The target's most probable tokens after input position i."""
    top_logprobs_BLZ: Tensor


class Schedule:
    """The batches of a whole training run.

    Args:
        lengths: Tokens of each text.
        batch_tokens: Tokens of a step, padding included.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int):
        self.lengths, self.batch_tokens, self.seed = list(lengths), batch_tokens, seed
        self._epoch: tuple[int, list[list[int]]] = (-1, [])
        self._begin = [0]
        """First step of each epoch drawn so far."""

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps of this number of epochs, if all are as long as the first."""
        return max(1, round(len(self.epoch(0)) * epochs))

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch: texts of like length together, the batches in random order."""
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
            # Epochs differ in length, so each must be drawn before the step that follows it can be placed.
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
        # Sorting only within buckets of random texts keeps padding low and the batches of each epoch different.
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
    # Every world-th of the sorted texts: all processes get about the same number of tokens.
    assigned = sorted(batch, key=lambda text: lengths[text])[rank::world]
    return list(padded_batches(assigned, lengths, limit))


def collate(numbers: Sequence[int], texts: Sequence[TextFeatures], device: torch.device, dtype: torch.dtype) -> Batch:
    """Pad texts into one batch."""
    length = max(len(text.tokens_L) for text in texts) - 1
    size = len(texts)
    hidden, top = texts[0].features_LD.shape[1], texts[0].top_ids_LZ.shape[1]
    tokens = torch.zeros(size, length, dtype=torch.long)
    features = torch.zeros(size, length, hidden, dtype=dtype)
    answer = torch.zeros(size, length, dtype=torch.bool)
    top_ids = torch.zeros(size, length, top, dtype=torch.long)
    top_logprobs = torch.full((size, length, top), float("-inf"))
    for row, text in enumerate(texts):
        # Position i pairs feature i with token i + 1, which is one step after it: hence tokens from 1 on, and features
        # and distributions up to the last but one.
        inputs = len(text.tokens_L) - 1
        tokens[row, :inputs] = text.tokens_L[1:]
        features[row, :inputs] = text.features_LD[:-1]
        answer[row, :inputs] = text.answer_L[1:]
        top_ids[row, :inputs] = text.top_ids_LZ[:-1]
        top_logprobs[row, :inputs] = text.top_logprobs_LZ[:-1].float()
    return Batch(
        numbers=tuple(numbers),
        begin_B=torch.stack([text.tokens_L[0].long() for text in texts]).to(device),
        tokens_BL=tokens.to(device),
        features_BLD=features.to(device),
        length_B=torch.tensor([len(text.tokens_L) - 1 for text in texts], device=device),
        answer_BL=answer.to(device),
        top_ids_BLZ=top_ids.to(device),
        top_logprobs_BLZ=top_logprobs.to(device),
    )


def generator_of(seed: int, *keys: object) -> torch.Generator:
    """A generator seeded by the seed and these keys alone, so that it does not depend on earlier draws."""
    digest = hashlib.sha256(repr((seed, *keys)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def loss_positions_BL(batch: Batch, k: int) -> Tensor:
    """Boolean [B, L]: position i bears a loss, because the input token of position i + k belongs to an answer."""
    ahead = torch.zeros_like(batch.answer_BL)  # the last k positions have nothing to predict in this text
    ahead[:, : max(0, ahead.shape[1] - k)] = batch.answer_BL[:, k:]
    return ahead
