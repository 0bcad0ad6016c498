"""Weights as a GGUF file holds them: blocks of small whole numbers with their scales, read when they are needed.

Shapes: O outputs of a matrix, I inputs of a matrix, R rows of it, V vocabulary, D hidden size.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_PORTION = 1 << 18
"""Numbers that are dequantised at a time: what lies between them and their bytes fits the processor's cache."""
_ROWS = 4096
"""Outputs that a linear layer makes at a time."""


def dequantised(blocks: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """Numbers of a few bytes, all in one row; gguf makes those of one row at once, and of many rows in small groups.

    Raises:
        NotImplementedError: gguf cannot read the format.
    """
    from gguf import GGMLQuantizationType, dequantize

    return dequantize(blocks.reshape(1, -1), GGMLQuantizationType[kind])


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix [O, I] in one of GGUF's formats. It is indexed like a tensor, by rows, and gives fp32 numbers."""

    kind: str
    """The format's name in GGUF: Q4_K, Q8_0, F16, ..."""
    blocks: Tensor
    """Bytes of each row (uint8); they may be mapped from the file."""
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Rows as fp32 numbers: those of a slice [R, I], or of a tensor of indices [..., I]."""
        blocks, inputs = self.blocks[rows], self.shape[1]
        stored = blocks.reshape(-1, blocks.shape[-1]).numpy()
        weight_RI = np.empty((len(stored), inputs), np.float32)  # no tensor: inference mode is a thread's own
        step = max(1, _PORTION // inputs)

        def fill(begin: int) -> None:
            piece = slice(begin, begin + step)
            weight_RI[piece] = dequantised(stored[piece], self.kind).reshape(-1, inputs)

        begins = range(0, len(stored), step)
        if len(begins) > 1:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(fill, begins))
        else:  # a few tokens' vectors, in each pass: no thread is worth its start
            list(map(fill, begins))
        return torch.from_numpy(weight_RI).view(*blocks.shape[:-1], inputs)


class QuantizedLinear(nn.Module):
    """A linear layer that makes fp32 numbers of its weights in each call, a portion after the other: slow, but small.

    Args:
        tensor: The weights.
        bias_O: Added to the outputs.
    """

    def __init__(self, tensor: QuantizedTensor, bias_O: Tensor | None = None):
        super().__init__()
        self.tensor, self.bias = tensor, bias_O
        self.out_features, self.in_features = tensor.shape

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs [..., O] of rows [..., I]."""
        pieces = [
            nn.functional.linear(rows, self.tensor[begin : begin + _ROWS].to(rows.dtype))
            for begin in range(0, self.out_features, _ROWS)
        ]
        outputs = torch.cat(pieces, -1)
        return outputs if self.bias is None else outputs + self.bias


class QuantizedEmbedding(nn.Module):
    """An embedding whose rows become fp32 numbers when they are looked up.

    Args:
        tensor: The vectors of all tokens.
    """

    def __init__(self, tensor: QuantizedTensor):
        super().__init__()
        self.tensor = tensor
        self.num_embeddings, self.embedding_dim = tensor.shape

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., D] of token ids."""
        return self.tensor[ids]


WeightRows = Tensor | QuantizedTensor
"""The weights of a matrix. Both have rows, a length and a shape; `rows[ids]` makes numbers of those rows alone."""


def rows_of(module: Any) -> WeightRows:
    """The weights of an embedding or a linear layer of any kind."""
    rows: WeightRows = module.tensor if isinstance(module, QuantizedEmbedding | QuantizedLinear) else module.weight
    return rows


def device_of(rows: WeightRows) -> torch.device:
    """Where they are; a file's blocks are in main memory."""
    return rows.device if isinstance(rows, Tensor) else torch.device("cpu")
