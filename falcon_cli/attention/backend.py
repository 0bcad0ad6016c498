"""The one table of attention backends, and the hook by which transformers' models call them.

transformers hands every keyword argument of a forward down to its attention function, so the `View` of a forward
travels as `falcon_view=`; no state is planted on the model.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import AttentionInterface

from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import View

Backend = Callable[[Tensor, Tensor, Tensor, View, float, int | None], Tensor]

BACKENDS: dict[str, Backend] = {"sdpa": sdpa}


def implementation(name: str) -> str:
    """Name under which transformers knows a backend of ours (for `set_attn_implementation`)."""
    return f"falcon_{name}"


def _hook(backend: Backend) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        falcon_view: View,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return backend(query, key, value, falcon_view, scale, sliding_window).transpose(1, 2), None

    return attend


for _name, _backend in BACKENDS.items():
    AttentionInterface.register(implementation(_name), _hook(_backend))
