"""Weights as a GGUF file holds them: blocks of small whole numbers with their scales, read when they are needed.

Shapes: O outputs of a matrix, I inputs of a matrix, V vocabulary, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
        from gguf import GGMLQuantizationType, dequantize

        blocks = self.blocks[rows]
        numbers = dequantize(blocks.reshape(-1, blocks.shape[-1]).numpy(), GGMLQuantizationType[self.kind])
        return torch.from_numpy(numbers.astype("float32", copy=False)).view(*blocks.shape[:-1], self.shape[1])


class QuantizedLinear(nn.Module):
    """A linear layer that makes fp32 numbers of its weights in each call: slow, and small in memory.

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
        return nn.functional.linear(rows, self.tensor[:].to(rows.dtype), self.bias)


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
