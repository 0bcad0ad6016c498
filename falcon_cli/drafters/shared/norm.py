"""The target's final norm, undone: drafters read features at their scale before it.

Shapes: D hidden size.
"""

from torch import Tensor

_LEAST = 1e-2
"""Weights nearer to 0 would blow features up."""


def divisor(weight_D: Tensor) -> Tensor:
    """What features are divided by to undo the target's final norm: its weight, kept away from 0."""
    return weight_D.sign() * weight_D.abs().clamp_min(_LEAST) + (weight_D == 0) * _LEAST
