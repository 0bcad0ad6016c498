"""The mask of a sliding window, as a model's own mask comes to a backend."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from falcon_cli.attention.view import View


@pytest.fixture(scope="session")
def windowed() -> Callable[[View, torch.dtype, int | None], Tensor | None]:
    """(view, dtype, window) → the additive mask [1, T, S]; None where the view alone decides."""

    def build(view: View, dtype: torch.dtype, window: int | None) -> Tensor | None:
        mask_TS = None if window is None else view.mask_TS(dtype, window)
        return None if mask_TS is None else mask_TS[None]

    return build
