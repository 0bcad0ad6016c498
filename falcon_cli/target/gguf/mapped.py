"""The tensors of a GGUF file as they lie there: mapped into memory, in their own blocks, without a copy.

gguf's reader takes many seconds for a large vocabulary. So a table beside the model's description keeps where each
tensor is.

Shapes: O outputs of a matrix.
"""

import json
import mmap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from falcon_cli.native.blocks import BLOCK_FORMATS
from falcon_cli.native.quantized import QuantizedTensor, dequantised
from falcon_cli.target.gguf.file import GgufFile

TABLE = "tensors.json"
_ROWS = 4096
"""Rows that are looked at at a time."""
_SCALES = {
    **{kind: format.halves for kind, format in BLOCK_FORMATS.items()},
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), (0,)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
}
"""Format → where a block has its fp16 scales. All else in it are whole numbers."""


@dataclass(frozen=True)
class MappedTensor:
    """A tensor of the file, whatever its shape."""

    kind: str
    """The format's name in GGUF."""
    shape: tuple[int, ...]
    bytes: Tensor
    """uint8, mapped from the file."""

    def numbers(self) -> Tensor:
        """All of them, as fp32.

        Raises:
            NotImplementedError: gguf cannot read the format.
        """
        return torch.from_numpy(dequantised(self.bytes.numpy(), self.kind).reshape(self.shape).copy())

    def matrix(self, order_O: Tensor | None = None) -> QuantizedTensor:
        """The matrix of a tensor of two dimensions; in another order of its rows, which takes a copy of the bytes.

        Raises:
            NotImplementedError: gguf cannot read the format.
        """
        outputs, inputs = self.shape
        blocks = self.bytes.view(outputs, -1)
        dequantised(blocks[:1].numpy(), self.kind)
        return QuantizedTensor(self.kind, blocks if order_O is None else blocks[order_O], (outputs, inputs))


class MappedFile:
    """A GGUF file's tensors, mapped.

    Args:
        path: The file.
        table: Its table, as `write_table` wrote it.
    """

    def __init__(self, path: Path, table: Path):
        entries = json.loads(table.read_bytes())
        self.path = path
        self.architecture: str = entries["architecture"]
        """llama.cpp's name for the kind of network."""
        with path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nothing here writes
            everything = torch.frombuffer(self._mapped, dtype=torch.uint8)
        self.tensors: Mapping[str, MappedTensor] = {
            name: MappedTensor(kind, tuple(shape), everything[offset : offset + size])
            for name, (kind, shape, offset, size) in entries["tensors"].items()
        }
        """By llama.cpp's names."""

    def release(self) -> None:
        """Let the system take the memory of pages that were read; they are read again where they are needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def write_table(file: GgufFile, folder: Path) -> None:
    """Write where a file has its tensors."""
    tensors = {
        name: (
            tensor.tensor_type.name,
            [int(size) for size in reversed(tensor.shape)],
            int(tensor.data_offset),
            int(tensor.n_bytes),
        )
        for name, tensor in file.tensors.items()
    }
    entries = {"architecture": file.architecture, "tensors": tensors}
    (folder / TABLE).write_text(json.dumps(entries), encoding="utf-8")


def finite(matrix: QuantizedTensor) -> bool:
    """Whether all numbers of a matrix are finite; of blocks with fp16 scales only those are read."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    size = GGML_QUANT_SIZES[GGMLQuantizationType[matrix.kind]][1]
    for begin in range(0, len(matrix), _ROWS):
        piece = slice(begin, begin + _ROWS)
        if matrix.kind in _SCALES:
            blocks = matrix.blocks[piece].reshape(-1, size)
            parts = [blocks[:, at : at + 2].contiguous().view(torch.float16) for at in _SCALES[matrix.kind]]
        else:
            parts = [matrix[piece]]
        if not all(bool(part.isfinite().all()) for part in parts):
            return False
    return True
