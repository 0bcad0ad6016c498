"""Attention over two disjoint sets of slots, put together from the two parts.

    softmax over both = w · softmax over the first + (1 − w) · softmax over the second,   w = σ(lse₁ − lse₂)

where lse is the log-sum-exp of a part's scores (the identity behind FlashAttention's own splitting over blocks: Dao et
al. 2022, arXiv 2205.14135, §3.1). Shapes: B batch, N query heads, T rows, H head size.
"""

import torch
from torch import Tensor


def merge(first_BNTH: Tensor, first_lse_BNT: Tensor, second_BNTH: Tensor, second_lse_BNT: Tensor) -> Tensor:
    """Merge two parts in fp32 (or fp64, if they come so); returns the first part's dtype.

    A part without slots has lse −∞ by definition, but flash-attn 2 reports +∞ there: both mean weight 0.
    """
    wide = torch.promote_types(first_BNTH.dtype, torch.float32)
    first_lse, second_lse = first_lse_BNT.to(wide), second_lse_BNT.to(wide)
    share_BNT = torch.sigmoid(first_lse - second_lse)
    share_BNT = torch.where(torch.isinf(first_lse), torch.zeros_like(share_BNT), share_BNT)[..., None]
    merged = share_BNT * first_BNTH.to(wide) + (1 - share_BNT) * second_BNTH.to(wide)
    return merged.to(first_BNTH.dtype)
