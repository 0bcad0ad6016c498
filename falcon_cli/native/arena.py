"""Memory for packed weights: a few large blocks in huge pages, in the order in which a forward pass reads them."""

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
        size = tensor.numel() * tensor.element_size()
        taken = -(-size // _LINE) * _LINE
        if taken > len(self._left_B):
            self._left_B = torch.ops.falcon.huge(max(taken, _BLOCK))
        piece_B, self._left_B = self._left_B[:size], self._left_B[taken:]
        return piece_B.view(tensor.dtype).view(tensor.shape).copy_(tensor)


ARENA = Arena()
"""All models of the process share it."""
