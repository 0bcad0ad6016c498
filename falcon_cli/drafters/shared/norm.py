"""The target's final norm, undone: drafters read features at their scale before it.

Shapes: D hidden size.
"""

from torch import Tensor

_LEAST = 1e-2
"""Scales nearer to 0 would blow features up."""


def divisor(scale_D: Tensor) -> Tensor:
    """What features are divided by to undo the target's final norm: its scale, kept away from 0."""
    return scale_D.sign() * scale_D.abs().clamp_min(_LEAST) + (scale_D == 0) * _LEAST
