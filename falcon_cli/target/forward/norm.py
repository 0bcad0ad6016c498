"""What a target's final norm does to each dimension, asked of the norm itself and not read off its weights.

    features = n(x) · w + b        n of unit size; Llama: w its weight, b none; Gemma: 1 + weight; OLMo: 1, none

A vector of unit size and zero mean is its own n, under a root mean square as under LayerNorm. So what the norm makes of
it and of its opposite tells w and b. Shapes: D hidden size.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LOUD = 1e3
"""Size of what the norm is asked, beside which its epsilon is nothing."""
_NEAR = 1e-4


@dataclass(frozen=True)
class FinalNorm:
    """The norm before the LM head, by what it does."""

    scale_D: Tensor
    """w."""
    shift_D: Tensor | None
    """b; None where it adds nothing."""
    epsilon: float
    told: str
    """What it is, for people."""


def final_norm(
    module: nn.Module | None, hidden_size: int, epsilon: float, factor: float = 1.0, features: Tensor | None = None
) -> FinalNorm:
    """What a module does, if it is a norm.

    Args:
        module: Whose output, times a factor, the LM head reads.
        hidden_size: D.
        epsilon: Of the configuration, for a drafter's own norms.
        factor: That one.
        features: Some that the head read [..., D]: without a norm, their size is all that is known.
    """
    asked = None if module is None else _asked(module, hidden_size)
    if asked is None or module is None:
        size = 1.0 if features is None or features.numel() == 0 else float(features.float().square().mean().sqrt())
        scale_D = torch.full((hidden_size,), max(size, 1e-3))
        return FinalNorm(scale_D, None, epsilon, f"no norm before the LM head; features divided by {size:.3g}")
    scale_D, shift_D = asked
    weight_D, bias_D = (_parameter(module, name) for name in ("weight", "bias"))
    ones_D = torch.ones(hidden_size, device=scale_D.device)
    told, exact_D = "what it multiplies by", scale_D
    for name, held_D in (("1", ones_D), ("1 + its weight", _plus(weight_D)), ("its weight", weight_D)):
        if held_D is not None and _alike(held_D, scale_D):
            told, exact_D = name, held_D
    told = f"divided by {told}" + ("" if factor == 1.0 else f" and by {factor:.4g}")
    scaled_D = exact_D if factor == 1.0 else exact_D * factor
    if float(shift_D.abs().max()) < _NEAR * float(scale_D.abs().max()):
        return FinalNorm(scaled_D, None, epsilon, f"{type(module).__name__} undone: features {told}")
    shift_D = (bias_D if bias_D is not None and _alike(bias_D, shift_D) else shift_D) * factor
    return FinalNorm(scaled_D, shift_D, epsilon, f"{type(module).__name__} undone: features less its bias, {told}")


def _asked(module: nn.Module, size: int) -> tuple[Tensor, Tensor] | None:
    """Scale and shift [D]; None where the module is no norm."""
    if any(parameter.dim() > 1 for parameter in module.parameters()):
        return None
    own: Any = deepcopy(module).float()
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    unit_D = _unit(size).to(device)
    other_D = unit_D * torch.arange(1, size + 1, device=device)
    other_D = other_D - other_D.mean()
    asked = torch.stack([unit_D, -unit_D, other_D]) * _LOUD
    try:
        with torch.no_grad():
            above, below, other = own(asked[None])[0]
        scale_D, shift_D = (above - below) / (2 * unit_D), (above + below) / 2
        expected_D = other_D / other_D.square().mean().sqrt() * scale_D + shift_D
    except (TypeError, RuntimeError, ValueError):
        return None
    # What is no norm does something else to a vector of another size and other parts.
    return (scale_D, shift_D) if torch.allclose(other, expected_D, rtol=1e-3, atol=1e-3) else None


def _unit(size: int) -> Tensor:
    """A vector [D] of unit size and zero mean, without zeros."""
    unit_D = torch.ones(size)
    unit_D[1::2] = -1
    if size % 2:  # three numbers of zero mean and unit size end it
        unit_D[-3:] = torch.tensor([1.0, 1.0, -2.0]) / 2**0.5
    return unit_D


def _parameter(module: nn.Module, name: str) -> Tensor | None:
    held = getattr(module, name, None)
    return held.detach().float() if isinstance(held, Tensor) else None


def _plus(weight_D: Tensor | None) -> Tensor | None:
    return None if weight_D is None else 1 + weight_D


def _alike(held_D: Tensor, found_D: Tensor) -> bool:
    return held_D.shape == found_D.shape and torch.allclose(held_D, found_D, rtol=_NEAR, atol=_NEAR)
