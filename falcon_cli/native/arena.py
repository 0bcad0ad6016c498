"""Memory for packed weights: a few large blocks in huge pages, in the order in which a forward pass reads them."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

_BLOCK = 1 << 26
_LINE = 64


class Arena:
    """Hands out pieces of blocks; a block lives as long as one of its pieces."""

    def __init__(self) -> None:
        self._left_B = torch.empty(0, dtype=torch.uint8)

    def copy_in(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of a tensor, in the arena's memory."""
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor in the arena's memory, to be filled."""
        size = prod(shape) * dtype.itemsize
        taken = -(-size // _LINE) * _LINE
        if taken > len(self._left_B):
            self._left_B = torch.ops.falcon.huge(max(taken, _BLOCK))
        piece_B, self._left_B = self._left_B[:size], self._left_B[taken:]
        return piece_B.view(dtype).view(*shape)


ARENA = Arena()
"""All models of the process share it."""
