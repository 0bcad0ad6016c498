"""The one table of attention backends, and the hook by which transformers' models call them.

A whole model is run inside `reading(view)`: its masks are built by `masks.py`, and its attention calls a backend. A
drafter's one layer is called with its view as `falcon_view=` instead.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from falcon_cli.attention.dense import dense
from falcon_cli.attention.flash_hybrid import flash_hybrid
from falcon_cli.attention.flex import flex
from falcon_cli.attention.masks import tree_mask
from falcon_cli.attention.reading import NOW
from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import View, Visibility
from falcon_cli.errors import UsageError
from falcon_cli.spelling import did_you_mean

Backend = Callable[[Tensor, Tensor, Tensor, Visibility, float, Tensor | None], Tensor]
"""(query, key, value, view, scale, the model's own mask) → output."""

FLASH_CAPABILITY = (8, 0)
"""CUDA compute capability from which on flash-attn runs."""

BACKENDS: dict[str, Backend] = {"sdpa": sdpa, "flash": flash_hybrid, "flex": flex}


def pick_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """`auto` is flash on a GPU that runs flash-attn and a dtype that it takes, else sdpa.

    Raises:
        UsageError: No such backend, or it cannot run here.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    flash_attn = device.type == "cuda" and find_spec("flash_attn") is not None
    flash_attn = flash_attn and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
    if wanted == "auto":
        return "flash" if flash_attn and half else "sdpa"
    if wanted not in BACKENDS:
        raise UsageError(
            f"unknown attention {wanted}{did_you_mean(wanted, BACKENDS)}: choose from {', '.join(BACKENDS)}"
        )
    if wanted == "flash" and device.type == "cuda" and not (flash_attn and half):
        raise UsageError(
            "attention flash needs the flash-attn package (falcon-cli[flash]), a GPU of compute capability 8.0 or "
            "later, and fp16 or bf16; or use sdpa"
        )
    return wanted


NAMES = {"sdpa": "falcon_dense", "flash": "falcon_hybrid", "flex": "falcon_blocks"}


def implementation(name: str) -> str:
    """Name under which transformers knows a backend of ours (for `set_attn_implementation`).

    It takes every name with "sdpa", "flash" or "flex" in it for its own, and asks whether the model's class has that.
    """
    return NAMES[name]


def _hook(backend: Backend) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        falcon_view: View | None = None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        view = NOW.view if falcon_view is None else falcon_view
        if view is None:
            raise TypeError("falcon's attention needs the view of a forward: run the model inside reading(view)")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        mask_NTS = None if attention_mask is None else attention_mask[0]
        if falcon_view is not None and sliding_window is not None and key.shape[2] > sliding_window:
            mask_TS = falcon_view.mask_TS(query.dtype, sliding_window)  # a layer by itself: nobody has built its mask
            mask_NTS = None if mask_TS is None else mask_TS[None]
        if softcap is None and s_aux is None:
            return backend(query, key, value, view, scale, mask_NTS).transpose(1, 2).contiguous(), None
        mask_NTS = view.seen_TS[None] if mask_NTS is None else mask_NTS
        return dense(query, key, value, mask_NTS, scale, softcap, s_aux).transpose(1, 2).contiguous(), None

    return attend


for _name, _backend in BACKENDS.items():
    AttentionInterface.register(implementation(_name), _hook(_backend))
    AttentionMaskInterface.register(implementation(_name), tree_mask)
