"""The sums of an optimizer step: over its forwards, then over all processes in one reduction.

Shapes: K slots, M loss positions.
"""

from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from falcon_cli.distill.objective.csgd import ForwardResult


@dataclass(frozen=True)
class StepSums:
    """Sums over a step's forwards, in float64 on the accelerator's device: losses, counts, and counts by slot."""

    loss: Tensor
    feature: Tensor
    kl: Tensor
    ce: Tensor
    glanced: Tensor
    wrong: Tensor
    stop_requests: Tensor
    """Processes that were asked to stop."""
    right_K: Tensor
    """Loss positions with the right token, by slot."""
    positions_K: Tensor
    """Loss positions, by slot."""

    @classmethod
    def zero(cls, k: int, device: torch.device) -> "StepSums":
        """The sums before the first forward."""
        return cls._unflattened(torch.zeros(7 + 2 * k, dtype=torch.float64, device=device))

    @classmethod
    def of(cls, result: ForwardResult, k: int) -> "StepSums":
        """The sums of one forward."""
        parts = result.losses
        zero = torch.zeros((), dtype=torch.float64, device=parts.total.device)
        slots_M = result.slot_M - 1
        return cls(
            loss=parts.total.detach().double(),
            feature=parts.feature.double(),
            kl=parts.kl.double(),
            ce=parts.ce.double(),
            glanced=zero + result.glanced,
            wrong=zero + result.wrong,
            stop_requests=zero,
            right_K=torch.bincount(slots_M[parts.right_M], minlength=k).double(),
            positions_K=torch.bincount(slots_M, minlength=k).double(),
        )

    def __add__(self, other: "StepSums") -> "StepSums":
        """Both sums, added field by field."""
        return StepSums(*(first + second for first, second in zip(self._fields(), other._fields(), strict=True)))

    def mean_losses(self, loss_positions: int) -> "StepSums":
        """The four losses divided by the step's loss positions; counts stay as they are."""
        n = loss_positions
        return replace(self, loss=self.loss / n, feature=self.feature / n, kl=self.kl / n, ce=self.ce / n)

    def reduced(self, accelerator: Accelerator) -> "StepSums":
        """The sums of all processes, by one reduction of one vector."""
        if accelerator.num_processes == 1:
            return self
        # One vector, because a reduction costs its latency, not its size.
        return self._unflattened(accelerator.reduce(torch.cat([field.reshape(-1) for field in self._fields()]), "sum"))

    @classmethod
    def _unflattened(cls, vector: Tensor) -> "StepSums":
        # The order of the fields: seven numbers, then two vectors of k counts.
        return cls(*vector[:7], *vector[7:].chunk(2))

    def _fields(self) -> list[Tensor]:
        return list(vars(self).values())
