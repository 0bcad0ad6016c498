"""Weights as the kernels read them: panels of outputs, in fp32, bf16, int8 or int4.

    fp32, bf16   [N / P, K, P]        the P outputs of a panel side by side for each input
    int8         [N / P, K / 4, 4·P]  the same for four neighbouring inputs at a time, as w + 128; a scale an output
    int4         [N / P, K / 32, 20·P]  blocks of 32 inputs: w = step·q + least, q in 0..15 as GGUF's Q4_1 has it

A block of int4: for four inputs at a time 2·P bytes, whose lower bits are of the panel's first half and whose higher
bits are of its second; then P steps and P least values in fp16.

Shapes: N outputs (padded to whole panels), K inputs (whole numbers: padded to whole blocks), P outputs of a panel (the
processor's choice).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from falcon_cli.native.arena import ARENA

Kind = Literal["fp32", "bf16", "int8", "int4"]

BLOCK = 32
"""Inputs that share a scale."""


@dataclass(frozen=True)
class Matrix:
    """A packed matrix."""

    data: Tensor
    scale_N: Tensor
    """Of int8 weights; else empty."""
    bias_N: Tensor
    """Empty without."""
    outputs: int

    @property
    def parts(self) -> list[Tensor]:
        """As operators take them."""
        return [self.data, self.scale_N, self.bias_N]

    @property
    def bytes(self) -> int:
        """What one product reads."""
        return sum(part.numel() * part.element_size() for part in self.parts)

    def first(self, outputs: int) -> "Matrix":
        """Its first outputs, on the same memory."""
        panels = -(-outputs // torch.ops.falcon.panel())
        rows = panels * torch.ops.falcon.panel()
        return Matrix(self.data[:panels], self.scale_N[:rows], self.bias_N[:rows], outputs)


def suits(linear: nn.Module) -> bool:
    """Whether the kernels take this layer: an ordinary linear one whose inputs come in eights."""
    return type(linear) is nn.Linear and linear.in_features % 8 == 0


def packed(linears: Sequence[nn.Linear], kind: Kind) -> Matrix:
    """Linear layers of the same input as one matrix, their outputs one after the other."""
    weight_NK = torch.cat([linear.weight.detach() for linear in linears])
    return pack(weight_NK, kind, _bias(linears))


def packed_gate_up(gate: nn.Linear, up: nn.Linear, kind: Kind) -> Matrix:
    """Gate and up projection of a gated MLP: a panel holds half a panel of each, outputs that belong together."""
    half = torch.ops.falcon.panel() // 2
    rows = [_halves(linear.weight.detach(), half) for linear in (gate, up)]
    weight_NK = torch.stack(rows, 1).flatten(0, 2)
    bias_N = _bias([gate, up])
    if bias_N is not None:
        bias_N = torch.stack([_halves(part, half) for part in bias_N.chunk(2)], 1).flatten()
    matrix = pack(weight_NK, kind, bias_N)
    return Matrix(matrix.data, matrix.scale_N, matrix.bias_N, 2 * gate.out_features)


def pack(weight_NK: Tensor, kind: Kind, bias_N: Tensor | None = None) -> Matrix:
    """A matrix in panels.

    Args:
        weight_NK: Any floating dtype; K is a multiple of 8.
        kind: int8 is rounded to 1/127 of each output's largest weight; int4 to 1/15 of the range of each block of 32,
            which leaves weights from a GGUF file of that kind as they are.
        bias_N: Added to the outputs.
    """
    outputs, panel = len(weight_NK), torch.ops.falcon.panel()
    missing = -outputs % panel
    weight_NK = pad(weight_NK, (0, 0, 0, missing))
    bias = torch.empty(0) if bias_N is None else pad(bias_N.float(), (0, missing))
    if kind in ("fp32", "bf16"):
        dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        data = weight_NK.to(dtype).unflatten(0, (-1, panel)).transpose(1, 2)
        return Matrix(ARENA.settle(data), torch.empty(0), bias, outputs)
    weight_NK = pad(weight_NK.float(), (0, -weight_NK.shape[1] % BLOCK))
    if kind == "int4":
        return Matrix(ARENA.settle(_int4(weight_NK, panel)), torch.empty(0), bias, outputs)
    whole_NK, scale_N = _int8(weight_NK)
    data = whole_NK.unflatten(0, (-1, panel)).unflatten(2, (-1, 4)).transpose(1, 2).flatten(2)
    return Matrix(ARENA.settle(data), scale_N, bias, outputs)


def rewrite(matrix: Matrix, places_S: Tensor, weight_SK: Tensor) -> None:
    """Put other weights in place of some outputs' of an fp32, bf16 or int8 matrix."""
    panel = torch.ops.falcon.panel()
    if matrix.data.dtype != torch.uint8:
        matrix.data[places_S // panel, :, places_S % panel] = weight_SK.to(matrix.data.dtype)
        return
    whole_SK, scale_S = _int8(pad(weight_SK.float(), (0, -weight_SK.shape[1] % BLOCK)))
    fours = matrix.data.unflatten(2, (panel, 4))
    fours[places_S // panel, :, places_S % panel] = whole_SK.unflatten(1, (-1, 4))
    matrix.scale_N[places_S] = scale_S


def _int8(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to bytes around 128, and a scale for each output."""
    largest_N = weight_NK.abs().amax(1)
    scale_N = torch.where(largest_N > 0, largest_N / 127, torch.ones_like(largest_N))
    return ((weight_NK / scale_N[:, None]).round() + 128).to(torch.uint8), scale_N


def _int4(weight_NK: Tensor, panel: int) -> Tensor:
    """Blocks of 4-bit weights with their steps and least values, [N / P, K / 32, 20·P] bytes."""
    blocks_NBK = weight_NK.unflatten(1, (-1, BLOCK))
    least_NB = blocks_NBK.amin(2)
    step_NB = (blocks_NBK.amax(2) - least_NB) / 15
    least_NB, step_NB = (part.half() for part in (least_NB, step_NB))
    safe_NB = torch.where(step_NB > 0, step_NB, torch.ones_like(step_NB)).float()
    whole_NBK = ((blocks_NBK - least_NB.float()[..., None]) / safe_NB[..., None]).round().clamp(0, 15).to(torch.uint8)
    low, high = whole_NBK.view(-1, 2, panel // 2, *whole_NBK.shape[1:]).unbind(1)  # [N / P, P / 2, B, 32]
    both = (low | high << 4).unflatten(3, (-1, 4)).permute(0, 2, 3, 1, 4).flatten(2)
    ends = [
        part.view(-1, panel, part.shape[1]).transpose(1, 2).contiguous().view(torch.uint8)
        for part in (step_NB, least_NB)
    ]
    return torch.cat([both, *ends], 2).contiguous()


def product(rows: Tensor, matrix: Matrix) -> Tensor:
    """Fp32 rows [..., K] times a packed matrix: [..., N]."""
    outputs: Tensor = torch.ops.falcon.linear(rows, matrix.data, matrix.scale_N, matrix.bias_N, matrix.outputs)
    return outputs


class Best(NamedTuple):
    """The best outputs of each row, and all outputs."""

    places_TK: Tensor
    """Best first, of equals the first."""
    outputs_TN: Tensor


def best(rows_TK: Tensor, matrix: Matrix, count: int) -> Best:
    """The best outputs of fp32 rows times a packed matrix, found while they are at hand."""
    return Best(*torch.ops.falcon.best(rows_TK, matrix.parts, matrix.outputs, count))


def _bias(linears: Sequence[nn.Linear]) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [
            linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias.detach()
            for linear in linears
        ]
    )


def _halves(rows: Tensor, half: int) -> Tensor:
    """[N, ...] as [N / half, half, ...], padded."""
    missing = -len(rows) % half
    filled = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
    return filled.unflatten(0, (-1, half))
