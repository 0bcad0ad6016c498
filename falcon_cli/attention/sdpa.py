"""Tree attention by torch's scaled_dot_product_attention with a dense mask: any device, any dtype, the reference.

Shapes: B batch (1), N query heads, G kv heads, T rows, S slots, H head size.
"""

import torch
from torch import Tensor

from falcon_cli.attention.view import View


def sdpa(
    query_BNTH: Tensor, key_BGSH: Tensor, value_BGSH: Tensor, view: View, scale: float, window: int | None
) -> Tensor:
    """Attend T rows to S slots; returns [B, N, T, H].

    The R query heads of a kv head become R·T rows of one query, so that grouped keys and values are read in place
    instead of being repeated.
    """
    batch, heads, rows, size = query_BNTH.shape
    groups = key_BGSH.shape[1]
    if view.committed == 0 and view.ancestors_TC is None and window is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query_BNTH, key_BGSH, value_BGSH, is_causal=True, scale=scale, enable_gqa=heads != groups
        )
    mask_TS = view.mask_TS(query_BNTH.dtype, window)
    folded_mask = None if mask_TS is None else mask_TS.repeat(heads // groups, 1)
    folded = query_BNTH.reshape(batch, groups, -1, size)
    out = torch.nn.functional.scaled_dot_product_attention(
        folded, key_BGSH, value_BGSH, attn_mask=folded_mask, scale=scale
    )
    return out.reshape(batch, heads, rows, size)
