"""One training step's forward: predict, glance, predict again, compare (Falcon, section 3.2: CSGD).

    1  predict without gradient; count the positions where the drafter's token is not the target's
    2  glance: show the drafter the answer at some of them (glancing.py)
    3  predict again, with gradient
    4  the loss, at answer positions that were not glanced at

With `passes` above 1 the drafter also learns to continue from its own features, which the paper leaves to chance: what
it predicted without gradient is fed back as the input of a further pass (without glancing), whose loss is added.

Position i is compared with the target's feature at i + k and with its distribution of the token that follows there.
Shapes: B batch, L positions, D hidden size, M loss positions, Z tokens kept of the target's distribution, Y extra
tokens, V vocabulary, W draft vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from falcon_cli.distill.features.batches import Batch, generator_of, loss_positions_BL
from falcon_cli.distill.objective.glancing import glanced_L, one_block_ahead
from falcon_cli.distill.objective.losses import Losses, TeacherSignal, best_tokens, losses
from falcon_cli.distill.objective.vocabulary import ExtendedVocabulary, extend
from falcon_cli.drafters.falcon.blocks import Blocks, block_L, slot_L
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.forward.logits import PLAIN, LogitForm


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
    bias_V: Tensor | None = None
    """The LM head's biases, if it has any."""
    bias_W: Tensor | None = None
    """Those of the draft vocabulary."""
    form: LogitForm = PLAIN
    """How logits are made of the head's outputs."""

    def extend(self, batch: Batch) -> ExtendedVocabulary:
        """The draft vocabulary with the extra tokens of a batch."""
        return extend(batch, self.head_VD, self.head_WD, self.number_V, self.bias_V, self.bias_W)

    def signal(self, batch: Batch, vocabulary: ExtendedVocabulary, positions_BL: Tensor, k: int) -> TeacherSignal:
        """What the target predicts k positions after each loss position."""
        return teacher_signal(batch, vocabulary, positions_BL, k, self.form)

    def on(self, device: torch.device) -> "TargetWeights":
        """The same on a device."""
        held = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in held.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class ForwardResult:
    """The losses and counts of one forward."""

    losses: Losses
    slot_M: Tensor
    """Slot of each loss position, 1..k."""
    glanced: int
    wrong: int
    """Positions at which the first prediction was wrong."""


def train_forward(
    network: DrafterForward, weights: TargetWeights, batch: Batch, recipe: DistillRecipe, step: int, glance: float
) -> ForwardResult:
    """Losses of one batch; `glance` is λ, and 0 turns glancing off."""
    k = recipe.network.k
    forward = TrainingForward(network, weights, batch, recipe, step, glance)
    if recipe.phases == "drawn":
        return forward.run(int(torch.randint(k, (), generator=generator_of(recipe.seed, "phase", step))))
    return summed([forward.run(phase) for phase in range(k)])


def summed(results: Sequence[ForwardResult], weights: Sequence[float] | None = None) -> ForwardResult:
    """Several results as one; `weights` apply to the total only."""
    parts = [result.losses for result in results]
    weights = weights or [1.0] * len(parts)
    total = torch.stack([part.total * weight for part, weight in zip(parts, weights, strict=True)]).sum()
    feature, kl, ce = (torch.stack([getattr(part, name) for part in parts]).sum() for name in ("feature", "kl", "ce"))
    return ForwardResult(
        Losses(total, feature, kl, ce, torch.cat([part.right_M for part in parts])),
        torch.cat([result.slot_M for result in results]),
        glanced=sum(result.glanced for result in results),
        wrong=sum(result.wrong for result in results),
    )


@dataclass(frozen=True)
class TrainingForward:
    """A batch at one optimizer step, read in one stream of inputs, or in one for each pass of a draft (unroll.py)."""

    network: DrafterForward
    weights: TargetWeights
    batch: Batch
    recipe: DistillRecipe
    step: int
    glance: float
    """λ."""

    def run(self, phase: int) -> ForwardResult:
        """Losses with blocks that begin at this phase, by the four steps of the module's docstring."""
        k, passes, loss_BL = self.k, self.recipe.passes, self.loss_BL
        streams = [with_noise(self.batch, self.recipe, self.step)]
        glanced_BL = wrong_BL = torch.zeros_like(loss_BL)
        glancing = self.glance > 0 and k > 1
        # 1. Predict without gradient, pass after pass: pass p + 1 reads what pass p predicted. The last pass is not
        #    needed here, except that glancing needs pass 1 even where it is the only one.
        for number in range(1, max(passes, 2 if glancing else 1)):
            # The next pass reads a feature at every position; without one, only loss positions matter.
            wanted_BL = loss_BL if passes == 1 else self.real_BL()
            with torch.no_grad():
                first_MD = self._predict(phase, self.batch.tokens_BL, streams, [wanted_BL], last_only=True)[-1]
            if number == 1 and glancing:
                # 2. Glance: where is pass 1 wrong, and which λ of these positions are shown the answer?
                wrong_BL = self._wrong_BL(first_MD[loss_BL[wanted_BL]])
                glanced_BL = self._glanced_BL(phase, wrong_BL)
            if number < passes:
                streams.append(self._fed_back(first_MD, wanted_BL))
        # 3. Predict again, with gradient. Feature and token of a glanced position come from one block ahead.
        streams[0] = one_block_ahead(streams[0], glanced_BL, k)
        tokens_BL = one_block_ahead(self.batch.tokens_BL, glanced_BL, k)
        # A glanced position was given its answer, so it bears no loss. No draft reaches pass p before block p − 1.
        blocks_L = block_L(self.length, k, phase, loss_BL.device)
        loss_positions = [loss_BL & ~glanced_BL] + [loss_BL & (blocks_L >= number) for number in range(1, passes)]
        predicted = self._predict(phase, tokens_BL, streams, loss_positions)
        # 4. The loss: L = Σ_p w^(p − 1)·L_p over passes, w = pass_weight; the parts reported are those of pass 1.
        first, *later = (
            losses(predicted_MD, self.weights.signal(self.batch, self.vocabulary, positions_BL, k), self.recipe.loss)
            for predicted_MD, positions_BL in zip(predicted, loss_positions, strict=True)
        )
        weight = self.recipe.pass_weight
        total = first.total + sum(weight**number * part.total for number, part in enumerate(later, start=1))
        slot_M = slot_L(self.length, k, phase, loss_BL.device).expand_as(loss_BL)[loss_positions[0]]
        return ForwardResult(replace(first, total=total), slot_M, int(glanced_BL.sum()), int(wrong_BL.sum()))

    @cached_property
    def vocabulary(self) -> ExtendedVocabulary:
        """The batch's draft vocabulary."""
        return self.weights.extend(self.batch)

    @cached_property
    def loss_BL(self) -> Tensor:
        """Boolean: position i + k belongs to an answer."""
        return loss_positions_BL(self.batch, self.k)

    @property
    def k(self) -> int:
        """Block size."""
        return self.recipe.network.k

    @property
    def length(self) -> int:
        """Positions, padding included."""
        return self.batch.tokens_BL.shape[1]

    def real_BL(self) -> Tensor:
        """Boolean: no padding."""
        return torch.arange(self.length, device=self.batch.length_B.device) < self.batch.length_B[:, None]

    def _predict(
        self,
        phase: int,
        tokens_BL: Tensor,
        streams: Sequence[Tensor],
        wanted: Sequence[Tensor],
        last_only: bool = False,
    ) -> list[Tensor]:
        """Predicted features [M, D] of each stream at its wanted positions.

        Args:
            phase: Where blocks begin.
            tokens_BL: What the first stream reads; the others read the text's tokens.
            streams: Input features of each pass [B, L, D].
            wanted: Boolean [B, L] for each stream.
            last_only: `wanted` holds the last stream's positions only; the other streams predict nothing.
        """
        count, batch = len(streams), self.batch
        if last_only:
            wanted = [torch.zeros_like(wanted[0])] * (count - 1) + list(wanted)
        # All streams make one forward, one behind the other along L: a later pass attends to the passes before.
        tokens = torch.cat([tokens_BL] + [batch.tokens_BL] * (count - 1), 1)
        blocks = Blocks.of_texts(batch.length_B, self.length, self.k, phase, count)
        before = tokens_before(self.weights, batch.tokens_BL, self.k).repeat(1, count, 1)
        all_wanted = torch.cat(list(wanted), 1)
        embedded = self.weights.embedding_VD[tokens]
        predicted_MD = self.network(embedded, torch.cat(list(streams), 1), blocks, before, all_wanted)
        # Row m belongs to the stream that its column falls into.
        stream_M = all_wanted.nonzero()[:, 1] // self.length
        return [predicted_MD[stream_M == number] for number in range(count)] if count > 1 else [predicted_MD]

    def _wrong_BL(self, first_MD: Tensor) -> Tensor:
        """Boolean: loss positions where the drafter's best token is not the target's."""
        signal = self.weights.signal(self.batch, self.vocabulary, self.loss_BL, self.k)
        wrong_BL = self.loss_BL.clone()
        wrong_BL[self.loss_BL] = best_tokens(first_MD, signal) != signal.ids_MZ[:, 0]
        return wrong_BL

    def _glanced_BL(self, phase: int, wrong_BL: Tensor) -> Tensor:
        """Boolean: the positions that are shown the answer."""
        blocks_L = block_L(self.length, self.k, phase, wrong_BL.device)
        slots_L = slot_L(self.length, self.k, phase, wrong_BL.device)
        # Each text draws from its own generator, so its draw does not depend on the batch it is in.
        rows = [
            glanced_L(wrong_BL[row], blocks_L, slots_L, self.k, int(self.batch.length_B[row]), self.glance,
                      generator_of(self.recipe.seed, "glance", self.step, number))
            for row, number in enumerate(self.batch.numbers)
        ]  # fmt: skip
        return torch.stack(rows)

    def _fed_back(self, predicted_MD: Tensor, wanted_BL: Tensor) -> Tensor:
        """The next pass's input features: position i reads what position i − k predicted for it."""
        full_BLD = torch.zeros_like(self.batch.features_BLD)
        full_BLD[wanted_BL] = predicted_MD.to(full_BLD.dtype)
        return full_BLD.roll(self.k, 1)


def teacher_signal(
    batch: Batch, vocabulary: ExtendedVocabulary, positions_BL: Tensor, k: int, form: LogitForm = PLAIN
) -> TeacherSignal:
    """The target's feature and distribution k positions after each loss position."""
    row_M, place_M = positions_BL.nonzero(as_tuple=True)
    place_M = place_M + k
    # Input position i holds the text's token i + 1, so tokens 0 .. i + 1 are known when the token after it is drafted.
    in_text_MY = vocabulary.first_BY[row_M] <= place_M[:, None] + 1
    ids_MZ = vocabulary.number_V[batch.top_ids_BLZ[row_M, place_M]]
    return TeacherSignal(
        features_MD=batch.features_BLD[row_M, place_M],
        ids_MZ=ids_MZ.masked_fill(~_may_be_drafted(ids_MZ, in_text_MY, len(vocabulary.head_WD)), -1),
        logprobs_MZ=batch.top_logprobs_BLZ[row_M, place_M],
        head_WD=vocabulary.head_WD,
        in_text_MY=in_text_MY,
        bias_W=vocabulary.bias_W,
        form=form,
    )


def _may_be_drafted(ids_MZ: Tensor, in_text_MY: Tensor, rows: int) -> Tensor:
    """Boolean [M, C]: tokens of the draft vocabulary, and extra tokens that the text already contains."""
    extra = in_text_MY.shape[1]
    fixed = rows - extra
    if not extra:
        return ids_MZ >= 0
    return torch.where(ids_MZ < fixed, ids_MZ >= 0, in_text_MY.gather(1, (ids_MZ - fixed).clamp_min(0)))


def tokens_before(weights: TargetWeights, tokens_BL: Tensor, k: int) -> Tensor:
    """At position i the embedding of x(i+k) [B, L, D], the token before the predicted one; the last k − 1 wrap."""
    return weights.embedding_VD[tokens_BL.roll(1 - k, 1)]


def with_noise(batch: Batch, recipe: DistillRecipe, step: int) -> Tensor:
    """The input features with noise, drawn for each text separately."""
    if recipe.noise == 0:
        return batch.features_BLD
    rows = []
    for row, number in enumerate(batch.numbers):
        length = int(batch.length_B[row])
        draw = generator_of(recipe.seed, "noise", step, number)
        # Only the text's positions are drawn: padding, which depends on the batch, must not shift the draw.
        noise_LD = torch.zeros(batch.features_BLD.shape[1:])
        size = (length, noise_LD.shape[1])
        if recipe.noise_kind == "uniform":
            noise_LD[:length] = torch.rand(size, generator=draw).mul_(2).sub_(1)  # U(−1, 1)
        else:
            noise_LD[:length] = torch.randn(size, generator=draw)
        rows.append(noise_LD)
    return batch.features_BLD + recipe.noise * torch.stack(rows).to(batch.features_BLD)
