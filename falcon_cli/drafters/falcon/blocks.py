"""Who sees whom inside the drafter while it learns: relaxed causal attention over blocks of k positions.

A position sees its own block whole and everything before it (Falcon, section 3.1). For k = 2, 6 positions, phase 0
and phase 1:

    1 1 . . . .        1 . . . . .
    1 1 . . . .        1 1 1 . . .
    1 1 1 1 . .        1 1 1 . . .
    1 1 1 1 . .        1 1 1 1 1 .
    1 1 1 1 1 1        1 1 1 1 1 .
    1 1 1 1 1 1        1 1 1 1 1 1

When drafting, the last block always ends at the last position known, so a text's blocks may begin anywhere: training
draws a phase for each batch. A position's slot is its place in its block, 1..k.

Shapes: B batch, L positions.
"""

import torch
from torch import Tensor


def block_L(length: int, k: int, phase: int, device: torch.device | None = None) -> Tensor:
    """Number of the block each position belongs to [L]; the first block holds k − phase positions."""
    return (torch.arange(length, device=device) + phase) // k


def slot_L(length: int, k: int, phase: int, device: torch.device | None = None) -> Tensor:
    """Each position's slot [L], 1..k."""
    return (torch.arange(length, device=device) + phase) % k + 1


def relaxed_causal_BLL(length_B: Tensor, length: int, k: int, phase: int) -> Tensor:
    """Boolean [B, 1, L, L]: which positions each position of a padded batch sees.

    A text's padding (from `length_B` on) is seen by none but itself, so that no row is empty.
    """
    device = length_B.device
    block = block_L(length, k, phase, device)
    seen_LL = block[:, None] >= block
    place_L = torch.arange(length, device=device)
    real_BL = place_L < length_B[:, None]
    itself_LL = place_L[:, None] == place_L
    return ((seen_LL & real_BL[:, None, :]) | itself_LL)[:, None]


def last_seen_BL(mask_BLL: Tensor) -> Tensor:
    """For each row of a relaxed causal mask [B, 1, L, L], the last position it sees: its block's last."""
    length = mask_BLL.shape[-1]
    return length - 1 - mask_BLL[:, 0].flip(-1).to(torch.uint8).argmax(-1)
