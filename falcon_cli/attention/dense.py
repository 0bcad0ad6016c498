"""Attention whose scores are capped, or that may look at a sink: computed step by step, as no fused kernel does.

    capped      score ← cap · tanh(score / cap)                                       (Gemma 2)
    sink        the softmax has one term more, e^sink, that carries no value          (gpt-oss)

Shapes: B batch (1), N query heads, G kv heads, T rows, S slots, H head size.
"""

import torch
from torch import Tensor


def dense(
    query_BNTH: Tensor,
    key_BGSH: Tensor,
    value_BGSH: Tensor,
    mask_NTS: Tensor | None,
    scale: float,
    softcap: float | None,
    sink_N: Tensor | None,
) -> Tensor:
    """Attend T rows to S slots in fp32 (or fp64); returns [B, N, T, H]. The mask is boolean or additive."""
    batch, heads, rows, size = query_BNTH.shape
    groups = key_BGSH.shape[1]
    wide = torch.promote_types(query_BNTH.dtype, torch.float32)
    query = query_BNTH.to(wide).reshape(batch, groups, -1, rows, size)  # R query heads a kv head
    scores = scale * query @ key_BGSH.to(wide).unsqueeze(2).transpose(-1, -2)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if mask_NTS is not None:
        mask = mask_NTS.expand(heads, -1, -1).reshape(groups, -1, rows, key_BGSH.shape[2])
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if sink_N is not None:
        sinks = sink_N.to(wide).reshape(1, groups, -1, 1, 1).expand(batch, -1, -1, rows, 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    out = weights @ value_BGSH.to(wide).unsqueeze(2)
    return out.to(query_BNTH.dtype).reshape(batch, heads, rows, -1)
