"""The weights of an embedding or an LM head: a tensor, or a matrix in a file's own blocks.

Both have rows, a length and a shape, and both are indexed by rows. `rows[ids]` makes numbers of those rows alone.
"""

from typing import Any

import torch
from torch import Tensor

from falcon_cli.native.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedTensor

TokenRows = Tensor | QuantizedTensor
"""A vector for each token: [V, D]."""


def rows_of(module: Any) -> TokenRows:
    """The weights of an embedding or a linear layer of any kind."""
    rows: TokenRows = module.tensor if isinstance(module, QuantizedEmbedding | QuantizedLinear) else module.weight
    return rows


def device_of(rows: TokenRows) -> torch.device:
    """Where they are; a file's blocks are in main memory."""
    return rows.device if isinstance(rows, Tensor) else torch.device("cpu")
