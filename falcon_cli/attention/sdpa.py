"""Tree attention by torch's scaled_dot_product_attention with a dense mask: any device, any dtype, the reference.

Shapes: B batch (1), N query heads, G kv heads, T rows, S slots, H head size.
"""

import torch
from torch import Tensor

from falcon_cli.attention.view import Visibility


def sdpa(
    query_BNTH: Tensor, key_BGSH: Tensor, value_BGSH: Tensor, view: Visibility, scale: float, mask_NTS: Tensor | None
) -> Tensor:
    """Attend T rows to S slots; returns [B, N, T, H of the values].

    The R query heads of a kv head become R·T rows of one query, so that grouped keys and values are read in place
    instead of being repeated. `mask_NTS` (boolean or additive; N may be 1) stands for the view's where there is one.
    """
    batch, heads, rows, size = query_BNTH.shape
    groups = key_BGSH.shape[1]
    if mask_NTS is None and view.committed == 0 and view.ancestors_TC is None:
        return torch.nn.functional.scaled_dot_product_attention(
            query_BNTH, key_BGSH, value_BGSH, is_causal=True, scale=scale, enable_gqa=heads != groups
        )
    if mask_NTS is None:
        mask_TS = view.mask_TS(query_BNTH.dtype)
        mask_NTS = None if mask_TS is None else mask_TS[None]
    out = torch.nn.functional.scaled_dot_product_attention(
        query_BNTH.reshape(batch, groups, -1, size),
        key_BGSH,
        value_BGSH,
        attn_mask=None if mask_NTS is None else _folded(mask_NTS, heads, groups),
        scale=scale,
    )
    return out.reshape(batch, heads, rows, -1)


def _folded(mask_NTS: Tensor, heads: int, groups: int) -> Tensor:
    """The mask of R·T rows: one for all kv heads, or [G, R·T, S] where it differs by head."""
    if len(mask_NTS) == 1:
        return mask_NTS[0].repeat(heads // groups, 1)
    return mask_NTS.reshape(groups, -1, mask_NTS.shape[-1])
