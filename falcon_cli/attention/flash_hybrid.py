"""Tree attention in two parts: a flash kernel over the committed prefix, a small dense one among the tree's rows.

Flash kernels take no tree mask, but every row of a tree sees the whole prefix, so none is needed there; only the
T × C corner of uncommitted rows needs one. The parts are merged by their log-sum-exps.

                 committed        tree
    row 0        . . . . . . . .  1 . . .
    row 1        . flash kernel . 1 1 . .      dense, T × C
    row 2        .   no mask    . 1 . 1 .
    row 3        . . . . . . . .  1 1 . 1

Shapes: B batch (1), N query heads, G kv heads, T rows, L committed positions, C uncommitted slots (the T rows', and
those of earlier passes before them), S = L + C slots, H head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.attention.merge import merge
from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import Visibility


@dataclass(frozen=True)
class Part:
    """Attention over some of the slots: its output, and the log-sum-exp of its scores."""

    out_BNTH: Tensor
    lse_BNT: Tensor


def flash_hybrid(
    query_BNTH: Tensor, key_BGSH: Tensor, value_BGSH: Tensor, view: Visibility, scale: float, mask_NTS: Tensor | None
) -> Tensor:
    """Attend T rows to S slots; returns [B, N, T, H]. Masks of the model's own and first chunks go to `sdpa`.

    So do values of another size than the keys, which flash kernels do not take.
    """
    committed = view.committed
    if committed == 0 or mask_NTS is not None or key_BGSH.shape[-1] != value_BGSH.shape[-1]:
        return sdpa(query_BNTH, key_BGSH, value_BGSH, view, scale, mask_NTS)
    prefix = prefix_part(query_BNTH, key_BGSH[:, :, :committed], value_BGSH[:, :, :committed], scale)
    tree = tree_part(query_BNTH, key_BGSH[:, :, committed:], value_BGSH[:, :, committed:], view.own_TC(), scale)
    return merge(prefix.out_BNTH, prefix.lse_BNT, tree.out_BNTH, tree.lse_BNT)


def prefix_part(query_BNTH: Tensor, key_BGLH: Tensor, value_BGLH: Tensor, scale: float) -> Part:
    """Every row sees every committed slot: flash-attn on a GPU that has it, else torch's own flash kernel."""
    if query_BNTH.is_cuda:
        return _flash_attn(query_BNTH, key_BGLH, value_BGLH, scale)
    batch, heads, rows, size = query_BNTH.shape
    folded = query_BNTH.reshape(batch, key_BGLH.shape[1], -1, size)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(folded, key_BGLH, value_BGLH, scale=scale)
    return Part(out.reshape(batch, heads, rows, size), lse.reshape(batch, heads, rows))


def tree_part(query_BNTH: Tensor, key_BGCH: Tensor, value_BGCH: Tensor, own_TC: Tensor, scale: float) -> Part:
    """The uncommitted rows among themselves, dense and masked, in fp32 (or fp64)."""
    batch, heads, rows, size = query_BNTH.shape
    wide = torch.promote_types(query_BNTH.dtype, torch.float32)
    query = query_BNTH.to(wide).reshape(batch, key_BGCH.shape[1], -1, rows, size)  # R query heads a kv head
    scores = scale * query @ key_BGCH.to(wide).unsqueeze(2).transpose(-1, -2)
    scores = scores.masked_fill(~own_TC, float("-inf"))
    out = scores.softmax(-1) @ value_BGCH.to(wide).unsqueeze(2)
    return Part(out.reshape(batch, heads, rows, size), scores.logsumexp(-1).reshape(batch, heads, rows))


def _flash_attn(query_BNTH: Tensor, key_BGLH: Tensor, value_BGLH: Tensor, scale: float) -> Part:
    """flash-attn's kernel for few queries over a long cache (it splits the cache over the GPU's cores)."""
    from flash_attn import flash_attn_with_kvcache

    out_BTNH, lse_BNT = flash_attn_with_kvcache(
        query_BNTH.transpose(1, 2),
        key_BGLH.transpose(1, 2),
        value_BGLH.transpose(1, 2),
        softmax_scale=scale,
        causal=False,
        return_softmax_lse=True,
    )
    return Part(out_BTNH.transpose(1, 2), lse_BNT)
