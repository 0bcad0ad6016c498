"""One training step's forward: glance, predict, compare (Falcon, section 3.2: CSGD).

    1  predict without gradient; count the positions where the drafter's token is not the target's
    2  glance: show the drafter the answer at some of them (glancing.py)
    3  predict again, with gradient
    4  the loss, at answer positions that were not glanced at

With `passes` above 1 the drafter also learns to go on from itself, which the paper leaves to chance: what it predicted
without gradient is fed back to it as the input of a further pass (not glanced at), whose loss is added.

Position i is held against the target's feature at i + k and its view of the token that follows there.
Shapes: B batch, L positions, D hidden size, M loss-bearing positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from falcon_cli.distill.features.batches import Batch, generator_of, loss_positions_BL
from falcon_cli.distill.objective.glancing import glanced_L, one_block_ahead
from falcon_cli.distill.objective.losses import Losses, TeacherSignal, best_tokens, losses
from falcon_cli.distill.objective.vocabulary import ExtendedVocabulary, opened
from falcon_cli.drafters.falcon.blocks import Blocks, block_L, slot_L
from falcon_cli.recipe.distill import DistillRecipe


class DrafterForward(Protocol):
    """`DrafterNetwork.forward`, alone or wrapped for several processes."""

    def __call__(self, embedded: Tensor, features: Tensor, blocks: Blocks, before: Tensor, wanted: Tensor) -> Tensor:
        """Predicted features [M, D] at the wanted positions."""


@dataclass(frozen=True)
class TargetWeights:
    """What the drafter shares with its target."""

    embedding_VD: Tensor
    head_VD: Tensor
    """The LM head."""
    head_WD: Tensor
    """Its rows of the draft vocabulary."""
    number_V: Tensor
    """Token id → its number in the draft vocabulary, or −1."""

    def opened(self, batch: Batch) -> ExtendedVocabulary:
        """The draft vocabulary open to the words of a batch."""
        return opened(batch, self.head_VD, self.head_WD, self.number_V)


@dataclass(frozen=True)
class ForwardResult:
    """What one forward was worth."""

    losses: Losses
    slot_M: Tensor
    """Slot of each loss-bearing position, 1..k."""
    glanced: int
    wrong: int
    """Positions at which the first prediction was wrong."""


def train_forward(
    network: DrafterForward, weights: TargetWeights, batch: Batch, recipe: DistillRecipe, step: int, glance: float
) -> ForwardResult:
    """Losses of one batch; `glance` is λ, and 0 leaves the glancing out."""
    k = recipe.network.k
    if recipe.phases == "drawn":
        phase = int(torch.randint(k, (), generator=generator_of(recipe.seed, "phase", step)))
        return _forward(network, weights, batch, recipe, step, glance, phase)
    return summed([_forward(network, weights, batch, recipe, step, glance, phase) for phase in range(k)])


def summed(told: Sequence[ForwardResult], weights: Sequence[float] | None = None) -> ForwardResult:
    """Several outcomes as one; `weights` go into the total alone."""
    parts = [one.losses for one in told]
    total = torch.stack([one.total * w for one, w in zip(parts, weights or [1.0] * len(parts), strict=True)]).sum()
    feature, kl, ce = (torch.stack([getattr(one, name) for one in parts]).sum() for name in ("feature", "kl", "ce"))
    return ForwardResult(
        Losses(total, feature, kl, ce, torch.cat([one.right_M for one in parts])),
        torch.cat([one.slot_M for one in told]),
        glanced=sum(one.glanced for one in told),
        wrong=sum(one.wrong for one in told),
    )


def _forward(
    network: DrafterForward,
    weights: TargetWeights,
    batch: Batch,
    recipe: DistillRecipe,
    step: int,
    glance: float,
    phase: int,
) -> ForwardResult:
    k, passes = recipe.network.k, recipe.passes
    reading = _Reading(network, weights, batch, k, phase)
    loss_BL = loss_positions_BL(batch, k)
    streams = [with_noise(batch, recipe, step)]
    glanced_BL = wrong_BL = torch.zeros_like(loss_BL)
    glancing = glance > 0 and k > 1
    for number in range(1, max(passes, 2 if glancing else 1)):
        wanted_BL = loss_BL if passes == 1 else reading.real_BL()
        with torch.no_grad():
            first_MD = reading.predict(batch.tokens_BL, streams, [wanted_BL], last_only=True)[-1]
        if number == 1 and glancing:
            wrong_BL = _wrong(reading, first_MD[loss_BL[wanted_BL]], loss_BL)
            glanced_BL = _glanced(reading, wrong_BL, glance, recipe.seed, step)
        if number < passes:
            streams.append(reading.fed_back(first_MD, wanted_BL))
    streams[0] = one_block_ahead(streams[0], glanced_BL, k)
    loss_positions = [loss_BL & ~glanced_BL] + [loss_BL & (reading.block_L >= number) for number in range(1, passes)]
    predicted = reading.predict(one_block_ahead(batch.tokens_BL, glanced_BL, k), streams, loss_positions)
    told, *later = (
        losses(predicted_MD, teacher_signal(batch, reading.opened, positions_BL, k), recipe.loss)
        for predicted_MD, positions_BL in zip(predicted, loss_positions, strict=True)
    )
    total = told.total + sum(recipe.pass_weight**number * own.total for number, own in enumerate(later, start=1))
    slot_M = slot_L(loss_BL.shape[1], k, phase, loss_BL.device).expand_as(loss_BL)[loss_positions[0]]
    return ForwardResult(replace(told, total=total), slot_M, int(glanced_BL.sum()), int(wrong_BL.sum()))


@dataclass(frozen=True)
class _Reading:
    """A batch as the network reads it: by one stream of inputs, or by one for each pass of a draft (unroll.py)."""

    network: DrafterForward
    weights: TargetWeights
    batch: Batch
    k: int
    phase: int

    @cached_property
    def opened(self) -> ExtendedVocabulary:
        """Its draft vocabulary."""
        return self.weights.opened(self.batch)

    @property
    def length(self) -> int:
        """Positions, padding included."""
        return self.batch.tokens_BL.shape[1]

    @property
    def block_L(self) -> Tensor:
        """Each position's block."""
        return block_L(self.length, self.k, self.phase, self.batch.tokens_BL.device)

    def real_BL(self) -> Tensor:
        """Boolean: no padding."""
        return torch.arange(self.length, device=self.batch.length_B.device) < self.batch.length_B[:, None]

    def predict(
        self, tokens_BL: Tensor, streams: Sequence[Tensor], wanted: Sequence[Tensor], last_only: bool = False
    ) -> list[Tensor]:
        """Predicted features [M, D] of each stream at its wanted positions.

        Args:
            tokens_BL: What the first stream reads; the others read the text's own tokens.
            streams: Input features of each pass [B, L, D].
            wanted: Boolean [B, L] for each stream.
            last_only: `wanted` is the last stream's alone; nothing is asked of the others.
        """
        count, batch = len(streams), self.batch
        if last_only:
            wanted = [torch.zeros_like(wanted[0])] * (count - 1) + list(wanted)
        tokens_BM = torch.cat([tokens_BL] + [batch.tokens_BL] * (count - 1), 1)
        blocks = Blocks.of_texts(batch.length_B, self.length, self.k, self.phase, count)
        before = tokens_before(self.weights, batch.tokens_BL, self.k).repeat(1, count, 1)
        wanted_BM = torch.cat(list(wanted), 1)
        embedded = self.weights.embedding_VD[tokens_BM]
        predicted_MD = self.network(embedded, torch.cat(list(streams), 1), blocks, before, wanted_BM)
        stream_M = wanted_BM.nonzero()[:, 1] // self.length
        return [predicted_MD[stream_M == number] for number in range(count)] if count > 1 else [predicted_MD]

    def fed_back(self, predicted_MD: Tensor, wanted_BL: Tensor) -> Tensor:
        """The next pass's input features: at position i what was predicted for it, at position i − k."""
        full_BLD = torch.zeros_like(self.batch.features_BLD)
        full_BLD[wanted_BL] = predicted_MD.to(full_BLD.dtype)
        return full_BLD.roll(self.k, 1)


def teacher_signal(batch: Batch, opened: ExtendedVocabulary, positions_BL: Tensor, k: int) -> TeacherSignal:
    """What the target says k positions on from each position of `bearing_BL`."""
    row_M, place_M = positions_BL.nonzero(as_tuple=True)
    place_M = place_M + k
    said_MN = opened.since_BN[row_M] <= place_M[:, None] + 1
    ids_MC = opened.number_V[batch.top_ids_BLC[row_M, place_M]]
    return TeacherSignal(
        features_MD=batch.features_BLD[row_M, place_M],
        ids_MC=ids_MC.masked_fill(~_may_be_drafted(ids_MC, said_MN, len(opened.head_WD)), -1),
        logprobs_MC=batch.top_logprobs_BLC[row_M, place_M],
        head_WD=opened.head_WD,
        said_MN=said_MN,
    )


def _may_be_drafted(ids_MC: Tensor, said_MN: Tensor, rows: int) -> Tensor:
    """Boolean [M, C]: words only where they were said."""
    words = said_MN.shape[1]
    fixed = rows - words
    if not words:
        return ids_MC >= 0
    return torch.where(ids_MC < fixed, ids_MC >= 0, said_MN.gather(1, (ids_MC - fixed).clamp_min(0)))


def _wrong(reading: _Reading, first_MD: Tensor, loss_BL: Tensor) -> Tensor:
    """Boolean [B, L]: loss-bearing positions where the drafter's best token is not the target's."""
    told = teacher_signal(reading.batch, reading.opened, loss_BL, reading.k)
    wrong_BL = loss_BL.clone()
    wrong_BL[loss_BL] = best_tokens(first_MD, told) != told.ids_MC[:, 0]
    return wrong_BL


def _glanced(reading: _Reading, wrong_BL: Tensor, glance: float, seed: int, step: int) -> Tensor:
    """Boolean [B, L]: the positions that are shown the answer, each text's drawn for itself."""
    batch, k = reading.batch, reading.k
    slots = slot_L(reading.length, k, reading.phase, wrong_BL.device)
    rows = [
        glanced_L(wrong_BL[row], reading.block_L, slots, k, int(batch.length_B[row]), glance,
                  generator_of(seed, "glance", step, number))
        for row, number in enumerate(batch.numbers)
    ]  # fmt: skip
    return torch.stack(rows)


def tokens_before(weights: TargetWeights, tokens_BL: Tensor, k: int) -> Tensor:
    """At position i the embedding of x(i+k) [B, L, D], the token before the one that i predicts; the last rows wrap."""
    return weights.embedding_VD[tokens_BL.roll(1 - k, 1)]


def with_noise(batch: Batch, recipe: DistillRecipe, step: int) -> Tensor:
    """The input features with noise, each text's drawn for itself."""
    if recipe.noise == 0:
        return batch.features_BLD
    rows = []
    for row, number in enumerate(batch.numbers):
        own = int(batch.length_B[row])
        draw = generator_of(recipe.seed, "noise", step, number)
        noise_LD = torch.zeros(batch.features_BLD.shape[1:])
        size = (own, noise_LD.shape[1])
        if recipe.noise_kind == "uniform":
            noise_LD[:own] = torch.rand(size, generator=draw).mul_(2).sub_(1)
        else:
            noise_LD[:own] = torch.randn(size, generator=draw)
        rows.append(noise_LD)
    return batch.features_BLD + recipe.noise * torch.stack(rows).to(batch.features_BLD)
