"""Muon in fp32: torch's version orthogonalises in bf16, which is sixty times slower on a CPU without bf16 units.

The rule is Jordan's (https://kellerjordan.github.io/posts/muon/) with the step size of Liu et al., "Muon is Scalable
for LLM Training" (arXiv 2502.16982), as in `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`.
"""

from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_TINY = 1e-7


class Fp32Muon(torch.optim.Muon):
    """`torch.optim.Muon` with step sizes matched to AdamW's, orthogonalising in the gradients' dtype."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step.

        Raises:
            ValueError: A closure is given.
        """
        if closure is not None:
            raise ValueError("Muon takes no closures")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                momentum = state["momentum_buffer"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalised(parameter.grad.lerp(momentum, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update, alpha=group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix near U·Vᵀ for the singular value decomposition U·S·Vᵀ: a few Newton–Schulz iterations."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp_min(_TINY)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T
