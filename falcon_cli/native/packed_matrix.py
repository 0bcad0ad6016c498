"""A packed matrix, which Python and the C++ operators share, and products with it.

Shapes: T rows, I inputs of a matrix, O outputs of a matrix (padded to whole panels), X best outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

WeightFormat = Literal["fp32", "bf16", "bf16x2", "int8", "int4", "file"]
"""How weights are held. With bf16x2 the inputs of products are rounded to bf16 too, as a model in bf16 has them."""


@dataclass(frozen=True)
class PackedMatrix:
    """A packed matrix: its tensors, and the C++ object on the same memory that computes with it.

    Raises:
        RuntimeError: A dtype or shape that the kernels do not know.
    """

    data: Tensor
    """Panels; the dtype and the last dimension tell the format."""
    scale_O: Tensor
    """A scale per output for int8 weights; empty for other formats."""
    bias_O: Tensor
    """Empty where there is no bias."""
    outputs: int
    handle: Any = field(init=False, repr=False, compare=False)
    """`torch.classes.falcon.PackedMatrix`."""
    linear: Callable[[Tensor], Tensor] = field(init=False, repr=False, compare=False)
    """The handle's method, bound once: to look it up takes 3 µs."""
    best: Callable[[Tensor], tuple[Tensor, Tensor]] = field(init=False, repr=False, compare=False)
    """The handle's method, bound once."""
    top_k: Callable[[Tensor, int], tuple[Tensor, Tensor]] = field(init=False, repr=False, compare=False)
    """The handle's method, bound once."""

    def __post_init__(self) -> None:
        handle = torch.classes.falcon.PackedMatrix(self.data, self.scale_O, self.bias_O, self.outputs)
        object.__setattr__(self, "handle", handle)  # the class is frozen
        for name in ("linear", "best", "top_k"):
            object.__setattr__(self, name, getattr(handle, name))

    def __reduce__(self) -> Any:
        """A copy gets a C++ object of its own, on the copied memory."""
        return PackedMatrix, (self.data, self.scale_O, self.bias_O, self.outputs)

    @property
    def bytes(self) -> int:
        """How many bytes one product reads."""
        return sum(part.numel() * part.element_size() for part in (self.data, self.scale_O, self.bias_O))

    def first(self, outputs: int) -> "PackedMatrix":
        """The first outputs, on the same memory."""
        panels = -(-outputs // torch.ops.falcon.panel())
        rows = panels * torch.ops.falcon.panel()
        return PackedMatrix(self.data[:panels], self.scale_O[:rows], self.bias_O[:rows], outputs)


def product(rows: Tensor, matrix: PackedMatrix) -> Tensor:
    """Fp32 rows [..., K] times a packed matrix: [..., N]."""
    return matrix.linear(rows)


class Best(NamedTuple):
    """The best output of each row, of equals the first."""

    place_T: Tensor
    """Its index."""
    value_T: Tensor
    """The output itself; -infinity in a row of NaN."""


def best(rows_TK: Tensor, matrix: PackedMatrix) -> Best:
    """The best output of fp32 rows times a packed matrix: the outputs themselves are kept nowhere."""
    return Best(*matrix.best(rows_TK))


class TopK(NamedTuple):
    """The best outputs of each row, and all outputs."""

    places_TX: Tensor
    """Indices of the best outputs, best first; of equal ones the first."""
    outputs_TN: Tensor


def top_k(rows_TK: Tensor, matrix: PackedMatrix, count: int) -> TopK:
    """The best outputs of fp32 rows times a packed matrix, found while they are in the processor's cache."""
    return TopK(*matrix.top_k(rows_TK, count))
