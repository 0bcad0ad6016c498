"""The one table of attention backends, and the hook by which transformers' models call them.

transformers hands every keyword argument of a forward down to its attention function, so the `View` of a forward
travels as `falcon_view=`; no state is stored on the model.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import AttentionInterface

from falcon_cli.attention.flash_hybrid import flash_hybrid
from falcon_cli.attention.flex import flex
from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import View
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.spelling import did_you_mean

Backend = Callable[[Tensor, Tensor, Tensor, View, float, int | None], Tensor]

BACKENDS: dict[str, Backend] = {"sdpa": sdpa, "flash": flash_hybrid, "flex": flex}


def pick_backend(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """`auto` is flash on a GPU that has flash-attn and a dtype that it takes, else sdpa.

    Raises:
        UsageError: No such backend, or it cannot run here.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    flash_attn = device.type == "cuda" and find_spec("flash_attn") is not None
    if wanted == "auto":
        return "flash" if flash_attn and half else "sdpa"
    if wanted not in BACKENDS:
        raise UsageError(
            f"unknown attention {wanted}{did_you_mean(wanted, BACKENDS)}: choose from {', '.join(BACKENDS)}"
        )
    if wanted == "flash" and device.type == "cuda" and not (flash_attn and half):
        raise UsageError(
            "attention flash needs the flash-attn package (falcon-cli[flash]) and fp16 or bf16; or use sdpa"
        )
    return wanted


def implementation(name: str) -> str:
    """Name under which transformers knows a backend of ours (for `set_attn_implementation`).

    It takes every name with "flash" in it for a flash-attn of its own and looks for that package.
    """
    return f"falcon_{name.replace('flash', 'hybrid')}"


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
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        if softcap is not None or s_aux is not None:
            raise FalconError("this target's attention caps its scores or has sinks, which falcon does not compute")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return backend(query, key, value, falcon_view, scale, sliding_window).transpose(1, 2), None

    return attend


for _name, _backend in BACKENDS.items():
    AttentionInterface.register(implementation(_name), _hook(_backend))
