"""Blocks of k positions: who sees whom while the drafter learns, and where a position is in its block.

Relaxed causal attention: a position sees its own block whole and everything before it (Falcon, section 3.1). For k = 2,
6 positions, phase 0 and phase 1:

    1 1 . . . .        1 . . . . .
    1 1 . . . .        1 1 1 . . .
    1 1 1 1 . .        1 1 1 . . .
    1 1 1 1 . .        1 1 1 1 1 .
    1 1 1 1 1 1        1 1 1 1 1 .
    1 1 1 1 1 1        1 1 1 1 1 1

When drafting, the last block always ends at the last position known, so a text's blocks may begin anywhere: training
draws a phase for each batch. A position's slot is its place in its block, 1..k.

Streams are the inputs of a draft's passes, one behind the other along L. Stream q holds the inputs of pass q + 1. Row
(q, block b) comes from the draft that started q blocks before. It sees

    stream 0    blocks ..., b − q          true, committed
    stream r    block b − q + r            for r = 1 .. q: the draft's own blocks on the way, itself the last

k = 2, two streams, three blocks; columns are blocks of stream 0, then of stream 1:

    stream 0    1 . . | . . .
                1 1 . | . . .
                1 1 1 | . . .
    stream 1    . . . | 1 . .     (no draft started before the first block: nobody reads this row)
                1 . . | . 1 .
                1 1 . | . . 1

Shapes: B batch, L positions of all streams, K block size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def block_L(length: int, k: int, phase: int, device: torch.device | None = None) -> Tensor:
    """Number of the block each position belongs to [L]; the first block holds k − phase positions."""
    return (torch.arange(length, device=device) + phase) // k


def slot_L(length: int, k: int, phase: int, device: torch.device | None = None) -> Tensor:
    """Each position's slot [L], 1..k."""
    return (torch.arange(length, device=device) + phase) % k + 1


@dataclass(frozen=True)
class Blocks:
    """The geometry of a forward's rows, built once and passed on."""

    position_BL: Tensor
    """Position in the text, for the rotary embedding."""
    last_BL: Tensor
    """The row of the last position of each row's block."""
    slot_BL: Tensor
    """Slot, 1..k. A block that the text's end cuts short is counted from its end, as blocks are when drafting."""
    mask_BLL: Tensor | None = None
    """Boolean [B, 1, L, L]: which rows each row sees; None where a `View` says it."""

    @classmethod
    def of_texts(cls, length_B: Tensor, length: int, k: int, phase: int = 0, streams: int = 1) -> "Blocks":
        """The blocks of a padded batch.

        A text's padding (from `length_B` on) is seen by none but itself, so that no row is empty.

        Args:
            length_B: Positions of each text.
            length: Positions of the batch, padding included.
            k: Block size.
            phase: The first block holds k − phase positions.
            streams: Number of passes whose inputs stand one behind the other.
        """
        device = length_B.device
        place = torch.arange(length, device=device)
        block = block_L(length, k, phase, device)
        # A block ends where the next one begins, or with its text; padding is a block of its own.
        end = torch.minimum((block + 1) * k - phase - 1, length_B[:, None] - 1)
        last = torch.maximum(end, place)
        offset = length * torch.arange(streams, device=device).repeat_interleave(length)
        return cls(
            position_BL=place.repeat(streams)[None],
            last_BL=last.repeat(1, streams) + offset,
            slot_BL=_slots(last - place, k).repeat(1, streams),
            mask_BLL=_mask(length_B, block, streams),
        )

    @classmethod
    def of_rows(cls, position_L: Tensor, size: int, k: int) -> "Blocks":
        """The blocks of `size` rows each that a pass of a draft reads; the last k rows of one are slots 1..k."""
        row_L = torch.arange(len(position_L), device=position_L.device)
        last_L = row_L // size * size + size - 1
        return cls(position_L[None], last_L[None], _slots(last_L - row_L, k)[None])

    @property
    def later_BL(self) -> Tensor:
        """Boolean: a slot behind the first, which reads the token drafted before it."""
        return self.slot_BL > 1


def _slots(to_last: Tensor, k: int) -> Tensor:
    """Slots from the distance to the block's last position: 0 is slot k."""
    return (k - to_last).clamp(1, k)


def _mask(length_B: Tensor, block_L: Tensor, streams: int) -> Tensor:
    length, device = len(block_L), block_L.device
    block = block_L.repeat(streams)
    stream = torch.arange(streams, device=device).repeat_interleave(length)
    start = (block - stream)[:, None]  # the last block that was true when the row's draft began
    seen = torch.where(stream == 0, block <= start, (block == start + stream) & (stream <= stream[:, None]))
    real_BL = (torch.arange(length, device=device) < length_B[:, None]).repeat(1, streams)
    itself = torch.eye(streams * length, dtype=torch.bool, device=device)
    return ((seen & real_BL[:, None, :]) | itself)[:, None]
