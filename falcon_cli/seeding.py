"""Where randomness comes from: explicit generators, and one switch for libraries that keep their own state."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a fresh generator on `device`; the same seed always gives the same numbers there."""
    import torch

    return torch.Generator(device=device).manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed the global state of Python, NumPy and PyTorch (every device), for code that takes no generator."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
