"""What a class makes of its LM head's outputs: nothing, a scale (Granite, Cohere), a cap (Gemma 2), or both.

    logits = c · tanh(s · z / c)        z the head's outputs, s the scale, c the cap; without a cap s · z

Which it is, the class itself tells: outputs of our choice take the place of the head's, and its forward makes logits of
them. Shapes: T rows of a forward, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALL, _LARGE = 2.0**-10, 2.0**20
"""Outputs at which a cap does nothing, and at which it is all."""
_RANDOM = 3
_FITS = 1e-3


@dataclass(frozen=True)
class LogitForm:
    """How logits are made of the head's outputs."""

    scale: float = 1.0
    cap: float | None = None

    @property
    def plain(self) -> bool:
        """The head's outputs are the logits."""
        return self.scale == 1.0 and self.cap is None

    def __call__(self, outputs: Tensor) -> Tensor:
        """Logits of the head's outputs, of any shape."""
        if self.plain:
            return outputs
        scaled = outputs * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of logits by the head's outputs; −∞, a logit that was hidden, has none."""
        if self.cap is None:
            return self.scale
        return self.scale * (1 - (logits / self.cap).square()).clamp_min(0)

    def __str__(self) -> str:
        scaled = [] if self.scale == 1.0 else [f"scaled by {self.scale:.4g}"]
        return " and ".join(scaled + ([] if self.cap is None else [f"capped at {self.cap:.4g}"]))


PLAIN = LogitForm()
"""The head's outputs are the logits."""


def outputs_to_ask(vocabulary: int, device: torch.device) -> Tensor:
    """Outputs that tell the form: small ones, large ones, and random ones to check it by."""
    drawn = torch.Generator().manual_seed(0)
    random_TV = 8 * torch.randn(_RANDOM, vocabulary, generator=drawn)
    fixed_TV = torch.tensor([[_SMALL], [_LARGE]]).expand(2, vocabulary)
    return torch.cat([fixed_TV, random_TV]).to(device)


def fitted(outputs_TV: Tensor, logits_TV: Tensor) -> LogitForm | None:
    """The form that explains all these logits; None where none does.

    Args:
        outputs_TV: The head's own, of any tokens, above `outputs_to_ask`.
        logits_TV: What the class made of them.
    """
    if logits_TV.shape != outputs_TV.shape:
        return None
    if torch.equal(outputs_TV, logits_TV.to(outputs_TV)):
        return LogitForm()
    outputs_TV, logits_TV = outputs_TV.double(), logits_TV.double()
    small, large = (logits_TV[-(_RANDOM + back)] for back in (2, 1))
    scale = float((small / _SMALL).median())
    grown = float((large / _LARGE).median())
    if not scale > 0:
        return None
    form = LogitForm(_snapped(grown)) if abs(grown / scale - 1) < _FITS else LogitForm(scale, float(large.median()))
    wrong = (form(outputs_TV) - logits_TV).abs() / (1 + logits_TV.abs())
    return form if bool((wrong < _FITS).all()) else None


def _snapped(scale: float) -> float:
    """The scale as a configuration would have it: a number of few digits, or one divided by such a number."""
    found: list[Callable[[float], float]] = [lambda x: float(f"{x:.6g}"), lambda x: 1 / float(f"{1 / x:.6g}")]
    return min((snap(scale) for snap in found), key=lambda near: abs(near - scale))
