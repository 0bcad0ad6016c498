"""Tree attention by PyTorch's FlexAttention: the mask is a function, blocks that nobody sees are skipped.

    a row sees slot s   if s < committed, or the row's own line of the ancestor mask has s − committed

On a GPU the kernel is compiled once for all lengths; on a CPU FlexAttention runs uncompiled, which is slow and there to
be tested. Shapes: B batch (1), N query heads, G kv heads, T rows, S slots, C uncommitted slots, H head size.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import Visibility


def flex(
    query_BNTH: Tensor, key_BGSH: Tensor, value_BGSH: Tensor, view: Visibility, scale: float, mask_NTS: Tensor | None
) -> Tensor:
    """Attend T rows to S slots; returns [B, N, T, H]. Masks of the model's own go to `sdpa`."""
    from torch.nn.attention.flex_attention import create_block_mask  # here: it brings the compiler with it

    rows, slots = query_BNTH.shape[2], key_BGSH.shape[2]
    if mask_NTS is not None:
        return sdpa(query_BNTH, key_BGSH, value_BGSH, view, scale, mask_NTS)
    committed, own_TC = view.committed, view.own_TC()

    def sees(_batch: Tensor, _head: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        return (slot < committed) | own_TC[row, (slot - committed).clamp(min=0)]

    mask = create_block_mask(sees, None, None, rows, slots, device=query_BNTH.device)
    grouped = query_BNTH.shape[1] != key_BGSH.shape[1]
    out_BNTH: Tensor = _kernel(query_BNTH.device.type)(
        query_BNTH, key_BGSH, value_BGSH, block_mask=mask, scale=scale, enable_gqa=grouped
    )
    return out_BNTH


@cache
def _kernel(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Any = flex_attention
    return torch.compile(kernel, dynamic=True) if device == "cuda" else kernel
