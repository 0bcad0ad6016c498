"""Coupled Sequential Glancing: which positions of a text are shown the answer (Falcon, section 3.2).

The drafter predicts once without gradient. Of the d positions at which it is wrong, N = λ·d are glanced: the input
there, feature and token together ("coupled"), is replaced by the target's input one block ahead, and the drafter
predicts again. With k = 3 and a block of positions 3, 4, 5 in which some prediction is wrong:

    position        3            4            5
    input           f3, x4       f4, x5       f5, x6
    N = 1           f6, x7       f4, x5       f5, x6      consecutive positions ("sequential"), from the block's
    N = 2           f6, x7       f7, x8       f5, x6      first, never its last, which would only leak its answer

So the later slots of the block learn from correct earlier ones. A glanced position is given its answer, and its output
bears no loss.

Shapes: B batch, L positions, D hidden size.
"""

import torch
from torch import Tensor


def ratio(start: float, step: int, steps: int) -> float:
    """λ at a step: from `start` linearly to 0 (the paper's λ = 0.4·(E − e)/E, by steps instead of epochs)."""
    return start * max(0.0, 1 - step / steps)


def glanced_L(
    wrong_L: Tensor, block_L: Tensor, slot_L: Tensor, k: int, inputs: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """Draw the positions to glance at.

    Args:
        wrong_L: Boolean; loss positions whose predicted token is not the target's.
        block_L: Each position's block.
        slot_L: Each position's slot, 1..k.
        k: Block size.
        inputs: Positions that hold an input of this text; the rest is padding.
        ratio: λ.
        generator: Source of the draw, on the CPU.

    Returns:
        Boolean [L] with round(λ·d) ones, or as many as are eligible: whole runs from the start of randomly drawn
        disagreeing blocks, the last run cut to fit.
    """
    length = len(wrong_L)
    count = round(ratio * int(wrong_L.sum()))  # N = λ·d
    # A block disagrees if any of its predictions is wrong; the others are left alone.
    blocks = int(block_L[-1]) + 1
    disagreeing = torch.zeros(blocks, dtype=torch.bool, device=wrong_L.device)
    disagreeing[block_L[wrong_L]] = True
    # Never the last slot, and only where the text still has an input one block ahead.
    has_answer_L = torch.arange(length, device=wrong_L.device) + k < inputs
    eligible_L = disagreeing[block_L] & (slot_L < k) & has_answer_L
    # Sort by (place of the block in a random order, slot): slots are 1..k, so keys of two blocks never interleave, and
    # the first N are whole runs. The double argsort turns a random order into each block's place in it.
    order = torch.rand(blocks, generator=generator).argsort().argsort().to(wrong_L.device)
    key_L = (order[block_L] * k + slot_L).masked_fill(~eligible_L, blocks * (k + 1))
    chosen = key_L.argsort()[: min(count, int(eligible_L.sum()))]
    glanced = torch.zeros(length, dtype=torch.bool, device=wrong_L.device)
    glanced[chosen] = True
    return glanced


def one_block_ahead(values: Tensor, glanced_BL: Tensor, k: int) -> Tensor:
    """Inputs [B, L] or [B, L, D] in which each glanced position holds the input k positions later."""
    ahead = values.roll(-k, dims=1)  # the last k wrap around, but no glanced position is among them
    return torch.where(glanced_BL if values.dim() == 2 else glanced_BL[..., None], ahead, values)
