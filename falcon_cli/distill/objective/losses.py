"""The training loss: feature·SmoothL1(f̂, f) + kl·KL(p ‖ p̂) + ce·CE (Falcon, section 3.2).

The target's distribution p is known by its most probable tokens, renormalised on those that the drafter may draft; the
drafter's p̂ ranges over the whole draft vocabulary. Logits are computed for a chunk of rows at a time, and each chunk's
gradient is taken at once, so memory does not grow with rows × vocabulary.

Shapes: M loss positions, D hidden size, W draft vocabulary with extra tokens, Y extra tokens, Z tokens kept of the
target's distribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from falcon_cli.recipe.distill import LossRecipe
from falcon_cli.target.forward.logits import PLAIN, LogitForm

_CHUNK_LOGITS = 1 << 22
"""Logits in memory at a time: 16 MB, which the allocator keeps instead of asking the system for fresh pages."""


@dataclass(frozen=True)
class TeacherSignal:
    """What the target predicts at M positions."""

    features_MD: Tensor
    ids_MZ: Tensor
    """Most probable tokens by their number in the draft vocabulary, −1 where they may not be drafted."""
    logprobs_MZ: Tensor
    head_WD: Tensor
    """The LM head's rows of what may be drafted."""
    in_text_MY: Tensor
    """Boolean: which of the head's last X rows, the batch's extra tokens, this position's text already contains."""
    bias_W: Tensor | None = None
    """The LM head's biases of those rows, if it has any."""
    form: LogitForm = PLAIN
    """How logits are made of the head's outputs."""

    def logits(self, predicted_MD: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The logits of predicted features, chunk by chunk: [m, W], −∞ for what may not be drafted there."""
        step, extra = max(1, _CHUNK_LOGITS // len(self.head_WD)), self.in_text_MY.shape[1]
        for begin in range(0, len(predicted_MD), step):
            rows = slice(begin, begin + step)
            outputs = predicted_MD[rows] @ self.head_WD.T
            logits = self.form(outputs if self.bias_W is None else outputs + self.bias_W)
            if extra:  # the batch's extra tokens are shared columns: hide those that this row's text does not contain
                logits[:, -extra:].masked_fill_(~self.in_text_MY[rows], float("-inf"))
            yield rows, logits

    def probabilities_MZ(self) -> Tensor:
        """The target's p, renormalised on what may be drafted; a row of which nothing may be drafted is all zeros."""
        p_MZ = self.logprobs_MZ.float().exp().masked_fill(self.ids_MZ < 0, 0.0)
        return p_MZ / p_MZ.sum(-1, keepdim=True).clamp_min(1e-9)


@dataclass(frozen=True)
class Losses:
    """Sums over the M positions; `total` carries the gradient."""

    total: Tensor
    feature: Tensor
    kl: Tensor
    ce: Tensor
    right_M: Tensor
    """Boolean: the drafter's best token is the target's."""


def losses(predicted_MD: Tensor, signal: TeacherSignal, weights: LossRecipe) -> Losses:
    """All parts of the loss, summed over positions."""
    # SmoothL1 is a mean over the D dimensions but a sum over positions, like KL and CE.
    feature = smooth_l1_loss(predicted_MD.float(), signal.features_MD.float(), reduction="none").mean(-1).sum()
    head_loss, kl, ce, best_M = _HeadLoss.apply(predicted_MD, signal, weights.kl, weights.ce)
    right_M = best_M == signal.ids_MZ[:, 0]
    return Losses(weights.feature * feature + head_loss, feature.detach(), kl, ce, right_M)


def best_tokens(predicted_MD: Tensor, signal: TeacherSignal) -> Tensor:
    """The head's best row [M] at each position."""
    best_M = torch.empty(len(predicted_MD), dtype=torch.long, device=predicted_MD.device)
    for rows, logits in signal.logits(predicted_MD):
        best_M[rows] = logits.argmax(-1)
    return best_M


class _HeadLoss(torch.autograd.Function):
    """kl·KL + ce·CE through the fixed LM head, with its gradient taken in the forward pass.

    With z the logits, s = softmax(z) and P = Σp (1, or 0 where nothing may be drafted):
    KL = Σ p·(log p − z) + P·lse(z), so dKL/dz = P·s − p; CE = lse(z) − z[best], so dCE/dz = s − onehot(best).
    Where the target scales or caps the head's outputs o, dz/do is its slope.
    """

    @staticmethod
    def forward(
        context: Any, predicted_MD: Tensor, signal: TeacherSignal, kl_weight: float, ce_weight: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        head_WD, ids_MZ, p_MZ = signal.head_WD, signal.ids_MZ, signal.probabilities_MZ()
        gradient_MD = torch.empty_like(predicted_MD)
        kl_sum, ce_sum = (predicted_MD.new_zeros((), dtype=torch.float32) for _ in range(2))
        best_M = torch.empty(len(predicted_MD), dtype=torch.long, device=predicted_MD.device)
        for rows, raw in signal.logits(predicted_MD):
            # Tokens that may not be drafted have p = 0, so any row of the head may stand in for their id.
            ids, p = ids_MZ[rows].clamp_min(0).long(), p_MZ[rows]
            has_best = (ids_MZ[rows, 0] >= 0).float()
            slope = None if signal.form.plain else signal.form.slope(raw.float())
            logits = raw.float()
            # log p̂ = (z − max z) − log Σ exp(z − max z), at the target's C tokens only; the exponentials replace the
            # logits in place, because the gradient needs them below.
            greatest, best_M[rows] = logits.max(-1)
            chosen = logits.gather(-1, ids) - greatest[:, None]
            sums = logits.sub_(greatest[:, None]).exp_().sum(-1)
            log_q = chosen - sums.log()[:, None]
            kl_sum += (torch.xlogy(p, p) - p * log_q).sum()  # KL = Σ p·(log p − log p̂), with 0·log 0 = 0
            ce_sum -= (log_q[:, 0] * has_best).sum()  # CE = −log p̂[best]
            # dL/dz = (kl·P + ce)·s − kl·p − ce·onehot(best): the first term is dense, with s = exp / Σ exp ...
            mass = kl_weight * p.sum(-1) + ce_weight * has_best
            # ... and the other two fall on the target's C tokens, of which column 0 is the best.
            sparse = kl_weight * p
            sparse[:, 0] += ce_weight * has_best
            gradient = logits.mul_((mass / sums)[:, None]).scatter_add_(-1, ids, -sparse)
            if slope is not None:
                gradient.mul_(slope)
            # o = f̂·headᵀ, so dL/df̂ = dL/do·head: [m, W] becomes [m, D] before the next chunk.
            gradient_MD[rows] = gradient.to(head_WD.dtype) @ head_WD
        context.save_for_backward(gradient_MD)
        context.mark_non_differentiable(kl_sum, ce_sum, best_M)
        return kl_weight * kl_sum + ce_weight * ce_sum, kl_sum, ce_sum, best_M

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # The chain rule with the scalar dL_total/dL; signal and weights are constants.
        (gradient_MD,) = context.saved_tensors
        return gradient_MD * gradients[0].to(gradient_MD.dtype), None, None, None
