"""What the drafter is told off for: feature·SmoothL1(f̂, f) + kl·KL(p ‖ p̂) + ce·CE (Falcon, section 3.2).

The target's distribution p is known by its most probable tokens, renormalised on those that the drafter may draft; the
drafter's p̂ ranges over the whole draft vocabulary. Logits are never held for more than a chunk of rows: each chunk's
gradient is taken at once, so that memory does not grow with rows × vocabulary.

Shapes: M loss-bearing positions, D hidden size, W draft vocabulary, C tokens kept of the target's distribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from falcon_cli.recipe.distill import LossRecipe

_HELD = 1 << 22
"""Logits held at a time: 16 MB, which the allocator keeps instead of asking the system for fresh pages."""


@dataclass(frozen=True)
class TeacherSignal:
    """What the target says at M positions."""

    features_MD: Tensor
    ids_MC: Tensor
    """Most probable tokens by their number in the draft vocabulary, −1 where they are not in it."""
    logprobs_MC: Tensor
    head_WD: Tensor
    """The LM head's rows of what may be drafted."""
    said_MN: Tensor
    """Boolean: which of the head's last N rows, words of a batch, this position's text has said before."""

    def logits(self, predicted_MD: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Part by part, what the head makes of features: logits [m, W], −∞ for what may not be drafted there."""
        step, words = max(1, _HELD // len(self.head_WD)), self.said_MN.shape[1]
        for begin in range(0, len(predicted_MD), step):
            part = slice(begin, begin + step)
            logits = predicted_MD[part] @ self.head_WD.T
            if words:
                logits[:, -words:].masked_fill_(~self.said_MN[part], float("-inf"))
            yield part, logits

    def probabilities_MC(self) -> Tensor:
        """p renormalised on what may be drafted; a row of which nothing may be drafted is all zeros."""
        p_MC = self.logprobs_MC.float().exp().masked_fill(self.ids_MC < 0, 0.0)
        return p_MC / p_MC.sum(-1, keepdim=True).clamp_min(1e-9)


@dataclass(frozen=True)
class Losses:
    """Sums over the M positions; `total` carries the gradient."""

    total: Tensor
    feature: Tensor
    kl: Tensor
    ce: Tensor
    right_M: Tensor
    """Boolean: the drafter's best token is the target's."""


def losses(predicted_MD: Tensor, teacher_signal: TeacherSignal, weights: LossRecipe) -> Losses:
    """All parts of the loss, summed over positions."""
    feature = smooth_l1_loss(predicted_MD.float(), teacher_signal.features_MD.float(), reduction="none").mean(-1).sum()
    total, kl, ce, best_M = _HeadLoss.apply(predicted_MD, teacher_signal, weights.kl, weights.ce)
    right_M = best_M == teacher_signal.ids_MC[:, 0]
    return Losses(weights.feature * feature + total, feature.detach(), kl, ce, right_M)


def best_tokens(predicted_MD: Tensor, teacher_signal: TeacherSignal) -> Tensor:
    """The head's best row [M] at each position."""
    best_M = torch.empty(len(predicted_MD), dtype=torch.long, device=predicted_MD.device)
    for part, logits in teacher_signal.logits(predicted_MD):
        best_M[part] = logits.argmax(-1)
    return best_M


class _HeadLoss(torch.autograd.Function):
    """kl·KL + ce·CE through a frozen head, with its gradient taken in the forward pass.

    With z the logits, s = softmax(z) and P = Σp (1, or 0 where nothing may be drafted):
    KL = Σ p·(log p − z) + P·lse(z), so dKL/dz = P·s − p; CE = lse(z) − z[best], so dCE/dz = s − onehot(best).
    """

    @staticmethod
    def forward(
        context: Any, predicted_MD: Tensor, teacher_signal: TeacherSignal, kl_weight: float, ce: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, head_WD, ids_MC, p_MC = (
            len(predicted_MD),
            teacher_signal.head_WD,
            teacher_signal.ids_MC,
            teacher_signal.probabilities_MC(),
        )
        gradient_MD = torch.empty_like(predicted_MD)
        kl_sum, ce_sum = (predicted_MD.new_zeros((), dtype=torch.float32) for _ in range(2))
        best_M = torch.empty(rows, dtype=torch.long, device=predicted_MD.device)
        for part, raw in teacher_signal.logits(predicted_MD):
            ids, p = ids_MC[part].clamp_min(0).long(), p_MC[part]
            has_best = (ids_MC[part, 0] >= 0).float()
            logits = raw.float()
            greatest, best_M[part] = logits.max(-1)
            chosen = logits.gather(-1, ids) - greatest[:, None]
            sums = logits.sub_(greatest[:, None]).exp_().sum(-1)
            log_q = chosen - sums.log()[:, None]
            kl_sum += (torch.xlogy(p, p) - p * log_q).sum()
            ce_sum -= (log_q[:, 0] * has_best).sum()
            mass = kl_weight * p.sum(-1) + ce * has_best
            told = kl_weight * p
            told[:, 0] += ce * has_best
            gradient = logits.mul_((mass / sums)[:, None]).scatter_add_(-1, ids, -told)
            gradient_MD[part] = gradient.to(head_WD.dtype) @ head_WD
        context.save_for_backward(gradient_MD)
        context.mark_non_differentiable(kl_sum, ce_sum, best_M)
        return kl_weight * kl_sum + ce * ce_sum, kl_sum, ce_sum, best_M

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_MD,) = context.saved_tensors
        return gradient_MD * gradients[0].to(gradient_MD.dtype), None, None, None
