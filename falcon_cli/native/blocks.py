"""The formats of GGUF files that the kernels compute with, and how their blocks become panels.

    q4_1, q5_0, q5_1, q8_0   [O / panel, I / 32, bytes]    a scale for each 32 inputs; Q4_0 is held as q4_1
    q4_k, q5_k, q6_k         [O / panel, I / 256, bytes]   scales of scales

`kernels/block_formats.h` draws the bytes. The numbers stay those of the file.

Shapes: O outputs of a matrix (padded to whole panels), I inputs of a matrix.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from falcon_cli.errors import FalconError
from falcon_cli.native.arena import ARENA


class BlockFormat(NamedTuple):
    """A format of blocks, or of superblocks."""

    bytes: int
    """Of a block in a file."""
    width: int
    """Bytes of a block in a panel, for each output."""
    halves: tuple[int, ...]
    """Where in a file's block fp16 scales begin."""


BLOCK_FORMATS = {
    "Q4_0": BlockFormat(18, 20, (0,)),
    "Q4_1": BlockFormat(20, 20, (0, 2)),
    "Q5_0": BlockFormat(22, 22, (0,)),
    "Q5_1": BlockFormat(24, 24, (0, 2)),
    "Q8_0": BlockFormat(34, 34, (0,)),
    "Q4_K": BlockFormat(144, 148, (0, 2)),
    "Q5_K": BlockFormat(176, 180, (0, 2)),
    "Q6_K": BlockFormat(210, 210, (208,)),
}
"""By GGUF's names."""
FLOATS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""GGUF's formats that are no blocks, and what they are called here."""


def pack_blocks(kind: str, rows: Tensor) -> Tensor:
    """Panels of rows as they are in a file, in the arena's memory.

    Args:
        kind: The format's name in GGUF, one of `BLOCK_FORMATS`.
        rows: Bytes of each row, of whole panels of them.

    Raises:
        FalconError: A scale is no finite number.
    """
    format, panel = BLOCK_FORMATS[kind], torch.ops.falcon.panel()
    blocks = rows.unflatten(1, (-1, format.bytes))
    for place in format.halves:
        scales = blocks[..., place : place + 2].contiguous().view(torch.float16)
        if not (scales * -8 if kind == "Q4_0" else scales).isfinite().all():  # -8 scales are its least value
            raise FalconError("a block's scale is NaN or infinite; try another file")
    panels = ARENA.empty((len(rows) // panel, blocks.shape[1], format.width * panel), torch.uint8)
    torch.ops.falcon.pack_blocks(rows, kind, panels)
    return panels
