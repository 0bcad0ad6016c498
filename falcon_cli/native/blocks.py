"""Repack the blocks of a GGUF file into the kernels' panels: the same numbers in another order.

    q4_1, q5_0, q5_1, q8_0   [O / panel, I / 32, bytes]    a scale for each 32 inputs; Q4_0 is held as q4_1
    q4_k, q5_k, q6_k         [O / panel, I / 256, bytes]   scales of scales; `kernels/block_tiles.cpp` draws them

Shapes: O outputs of a matrix (padded to whole panels), I inputs of a matrix. Scales and least values have a row for
each output and a column for each block, superblock or group of one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from falcon_cli.errors import FalconError
from falcon_cli.native.arena import ARENA

_ROWS = 2048
"""How many rows are repacked at a time, about: what lies between is four times as large as they are."""
FLOATS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""Formats that are no blocks, and what they are called here."""


class BlockParts(NamedTuple):
    """The parts of some rows."""

    bits: int
    numbers_OI: Tensor
    """Whole numbers (uint8); 8 bits are two's complements."""
    scales: Tensor
    """fp16."""
    leasts: Tensor | None = None
    """fp16, added to scaled numbers; in superblocks the scale of whole least values."""
    whole_scales: Tensor | None = None
    """Whole scales of superblocks (uint8, two's complements)."""
    whole_leasts: Tensor | None = None


def pack_blocks(kind: str, rows: Tensor) -> Tensor:
    """Panels of rows as they are in a file, in the arena's memory.

    Args:
        kind: The format's name in GGUF, one of `READERS`.
        rows: Bytes of each row, of whole panels of them.

    Raises:
        FalconError: A scale is no finite number.
    """
    panel = torch.ops.falcon.panel()
    portion = _ROWS // panel * panel
    whole = None
    for start in range(0, len(rows), portion):
        part = _panels(READERS[kind](rows[start : start + portion]), panel)
        if whole is None:
            whole = ARENA.empty((len(rows) // panel, *part.shape[1:]), torch.uint8)
        whole[start // panel : start // panel + len(part)] = part
    assert whole is not None, "a matrix has rows"
    return whole


def _panels(parts: BlockParts, panel: int) -> Tensor:
    """[O / panel, blocks or superblocks, bytes]."""
    scales = parts.scales
    if not scales.isfinite().all() or (parts.leasts is not None and not parts.leasts.isfinite().all()):
        raise FalconError("a block's scale is NaN or infinite; try another file")
    units = scales.shape[1]
    pieces = [_numbers(parts, panel).unflatten(1, (units, -1)).flatten(2)]
    pieces += [_pairs(whole, panel, units) for whole in (parts.whole_scales, parts.whole_leasts) if whole is not None]
    pieces += [_halves(half, panel) for half in (scales, parts.leasts) if half is not None]
    return torch.cat(pieces, 2)


def _numbers(parts: BlockParts, panel: int) -> Tensor:
    """Numbers of the panels' two halves [O / panel, groups, bytes]: planes of higher bits, then the lower four."""
    steps = {4: 8, 5: 8, 6: 4, 8: 8}[parts.bits]
    width = panel // 2
    split = parts.numbers_OI.view(-1, 2, width, parts.numbers_OI.shape[1] // (4 * steps), steps, 4)
    if parts.bits == 8:
        return split.permute(0, 3, 4, 1, 2, 5).flatten(2)
    low, high = (split & 15).unbind(1)
    pieces = [(low | high << 4).permute(0, 2, 3, 1, 4).flatten(2)]
    if parts.bits > 4:
        each = parts.bits - 4
        shifts = (torch.arange(steps, dtype=torch.uint8) * each).view(-1, 1)
        planes = ((split >> 4) << shifts).sum(4, dtype=torch.uint8)
        pieces.insert(0, planes.permute(0, 3, 1, 2, 4).flatten(2))
    return torch.cat(pieces, 2)


def _pairs(whole: Tensor, panel: int, units: int) -> Tensor:
    """Whole numbers of two neighbouring groups for each output [O / panel, blocks or superblocks, bytes]."""
    return whole.view(-1, panel, units, whole.shape[1] // units // 2, 2).permute(0, 2, 3, 1, 4).flatten(2)


def _halves(halves: Tensor, panel: int) -> Tensor:
    """An fp16 number for each output [O / panel, blocks or superblocks, bytes]."""
    return halves.view(-1, panel, halves.shape[1]).transpose(1, 2).contiguous().view(torch.uint8)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The fp16 number of each block that begins at a byte: [O, U]."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16).squeeze(-1)


def _nibbles(bytes_: Tensor) -> Tensor:
    """The lower four bits of all bytes, then the higher ones: [..., n] → [..., 2 n]."""
    return torch.cat([bytes_ & 15, bytes_ >> 4], -1)


def _fifth_bits(blocks: Tensor, start: int) -> Tensor:
    """The bits of four bytes as numbers' fifth bits: [O, U, 32]."""
    bits = torch.arange(8, dtype=torch.uint8)
    return ((blocks[..., start : start + 4, None] >> bits & 1) << 4).flatten(-2)


def _q4_0(blocks: Tensor) -> BlockParts:
    scales = _half(blocks, 0)
    return BlockParts(4, _nibbles(blocks[..., 2:]).flatten(1), scales, scales * -8)


def _q4_1(blocks: Tensor) -> BlockParts:
    return BlockParts(4, _nibbles(blocks[..., 4:]).flatten(1), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: Tensor) -> BlockParts:
    numbers = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks, 2)
    return BlockParts(5, numbers.flatten(1), _half(blocks, 0))


def _q5_1(blocks: Tensor) -> BlockParts:
    numbers = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks, 4)
    return BlockParts(5, numbers.flatten(1), _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: Tensor) -> BlockParts:
    return BlockParts(8, blocks[..., 2:].flatten(1), _half(blocks, 0))


def _q4_k(blocks: Tensor) -> BlockParts:
    numbers = _nibbles(blocks[..., 16:].unflatten(-1, (4, 32)))
    return BlockParts(4, numbers.flatten(1), _half(blocks, 0), -_half(blocks, 2), *_six_bits(blocks[..., 4:16]))


def _q5_k(blocks: Tensor) -> BlockParts:
    groups = torch.arange(8, dtype=torch.uint8).view(8, 1)
    fifth = (blocks[..., None, 16:48] >> groups & 1) << 4
    numbers = _nibbles(blocks[..., 48:].unflatten(-1, (4, 32))).flatten(-2) | fifth.flatten(-2)
    return BlockParts(5, numbers.flatten(1), _half(blocks, 0), -_half(blocks, 2), *_six_bits(blocks[..., 4:16]))


def _q6_k(blocks: Tensor) -> BlockParts:
    lower = _nibbles(blocks[..., :128].unflatten(-1, (2, 64)))
    pairs = torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)
    upper = (blocks[..., 128:192].unflatten(-1, (2, 1, 32)) >> pairs & 3) << 4
    numbers = lower.flatten(-2) | upper.flatten(-3)
    return BlockParts(6, numbers.flatten(1), _half(blocks, 208), None, blocks[..., 192:208].flatten(1))


def _six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight whole scales and eight whole least values of 6 bits, which Q4_K and Q5_K pack into 12 bytes."""
    first, second, third = packed.unflatten(-1, (3, 4)).unbind(-2)
    scales = torch.cat([first & 63, (third & 15) | first >> 6 << 4], -1)
    leasts = torch.cat([second & 63, third >> 4 | second >> 6 << 4], -1)
    return scales.flatten(1), leasts.flatten(1)


def _reader(size: int, read: Callable[[Tensor], BlockParts]) -> Callable[[Tensor], BlockParts]:
    return lambda rows: read(rows.unflatten(1, (-1, size)))


READERS = {
    "Q4_0": _reader(18, _q4_0),
    "Q4_1": _reader(20, _q4_1),
    "Q5_0": _reader(22, _q5_0),
    "Q5_1": _reader(24, _q5_1),
    "Q8_0": _reader(34, _q8_0),
    "Q4_K": _reader(144, _q4_k),
    "Q5_K": _reader(176, _q5_k),
    "Q6_K": _reader(210, _q6_k),
}
"""Format → what takes rows of it apart. The numbers are bytes of a block, or of a superblock."""
