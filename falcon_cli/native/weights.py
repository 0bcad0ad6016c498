"""Pack weights as the kernels read them: in panels of outputs, in fp32, bf16, bf16x2, int8 or int4.

    fp32, bf16   [O / panel, I, panel]          the outputs of a panel are side by side for each input
    bf16x2       [O / panel, I / 2, 2·panel]    bf16, two inputs at a time
    int8         [O / panel, I / 4, 4·panel]    four inputs at a time, as w + 128; a scale per output
    int4         [O / panel, I / 32, 20·panel]  blocks of 32 inputs: w = step·q + least, q in 0..15, as in GGUF's Q4_1

A block of int4 holds 2·P bytes for each four inputs. The lower four bits belong to the panel's first half, the higher
four to its second half. P steps and P least values in fp16 follow.

Shapes: O outputs of a matrix (padded to whole panels), I inputs of a matrix (padded to whole blocks, but for
fp32 and bf16).
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from falcon_cli.errors import FalconError
from falcon_cli.native.arena import ARENA
from falcon_cli.native.blocks import BLOCK_FORMATS, FLOATS, pack_blocks
from falcon_cli.native.packed_matrix import PackedMatrix, WeightFormat
from falcon_cli.native.quantized import QuantizedLinear, WeightRows, rows_of

Linear = nn.Linear | QuantizedLinear
"""What the kernels take over."""

BLOCK = 32
"""How many inputs share a scale."""
_ROWS = 4096
"""How many outputs are packed at a time: whole panels."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PackFormat = Literal["fp32", "bf16", "fp16", "bf16x2", "int8", "int4"]
"""What numbers can be packed as."""


def suits(linear: nn.Module) -> bool:
    """Whether the kernels take this layer: an ordinary linear one, with a multiple of 8 inputs."""
    if type(linear) is not nn.Linear and not isinstance(linear, QuantizedLinear):
        return False
    return linear.in_features % 8 == 0


def packed(linears: Sequence[Linear], format: WeightFormat) -> PackedMatrix:
    """Linear layers of the same input as one matrix. Their outputs follow one another.

    With the format `file` all of them have the same one there.
    """
    rows, kind = _rows(linears, format)
    return _pack(rows[0] if len(rows) == 1 else torch.cat([part[:] for part in rows]), kind, _bias(linears))


def packed_parts(linears: Sequence[Linear], format: WeightFormat) -> list[PackedMatrix]:
    """Linear layers of the same input as few matrices: neighbours of one format are one matrix."""
    groups = groupby(linears, key=lambda linear: _kind(linear, format))
    return [packed(list(group), format) for _, group in groups]


def packed_gate_up(gate: Linear, up: Linear, format: WeightFormat) -> PackedMatrix:
    """Gate and up projection of a gated MLP as one matrix.

    The first half of each panel holds outputs of the gate, the second half the same outputs of the up projection. So
    the kernels multiply the two while both are in registers.
    """
    half = torch.ops.falcon.panel() // 2
    rows, kind = _rows([gate, up], format)
    weight_OI = torch.stack([_halves(part[:], half) for part in rows], 1).flatten(0, 2)
    bias_O = _bias([gate, up])
    if bias_O is not None:
        bias_O = torch.stack([_halves(part, half) for part in bias_O.chunk(2)], 1).flatten()
    matrix = _pack(weight_OI, kind, bias_O)
    return PackedMatrix(matrix.data, matrix.scale_O, matrix.bias_O, 2 * gate.out_features)


def _kind(linear: Linear, format: WeightFormat) -> str:
    """How a layer's weights are packed: a format of ours, or one of GGUF's blocks.

    Raises:
        FalconError: The file's format is one that the kernels do not know.
    """
    if format != "file":
        return format
    kind = linear.tensor.kind if isinstance(linear, QuantizedLinear) else "F32"
    if kind not in FLOATS and kind not in BLOCK_FORMATS:
        known = ", ".join([*FLOATS, *BLOCK_FORMATS])
        raise FalconError(f"the kernels hold no {kind} weights (only {known}): use --quantize int8 or int4")
    return FLOATS.get(kind, kind)


def _rows(linears: Sequence[Linear], format: WeightFormat) -> tuple[list[Tensor] | list[WeightRows], str]:
    """The rows of layers that become one matrix, as numbers or as a file's blocks, and how they are packed."""
    kinds = {_kind(linear, format) for linear in linears}
    kind = kinds.pop()
    if kinds:  # a gate and an up projection that the file holds in two formats
        kind = "fp32"
    if kind in BLOCK_FORMATS:
        return [linear.tensor.blocks for linear in linears if isinstance(linear, QuantizedLinear)], kind
    return [rows_of(linear) for linear in linears], kind


def _pack(rows: WeightRows, kind: str, bias_O: Tensor | None) -> PackedMatrix:
    if kind not in BLOCK_FORMATS:
        return pack(rows, cast(PackFormat, kind), bias_O)
    assert isinstance(rows, Tensor), "blocks are bytes"
    outputs, missing = len(rows), -len(rows) % torch.ops.falcon.panel()
    bias = torch.empty(0) if bias_O is None else pad(bias_O.float(), (0, missing))
    return PackedMatrix(pack_blocks(kind, _padded(rows, 0, missing)), torch.empty(0), bias, outputs)


def pack(rows: WeightRows, format: PackFormat, bias_O: Tensor | None = None) -> PackedMatrix:
    """Pack a matrix into panels, a portion of its outputs after the other: what lies between is as large as a portion.

    Args:
        rows: [O, I] of any floating dtype, or a file's; I is a multiple of 8.
        format: int8 rounds to 1/127 of each output's largest weight. int4 rounds to 1/15 of the range of each block of
            32, which leaves weights from a GGUF file of that format as they are.
        bias_O: Added to the outputs.
    """
    outputs, panel = len(rows), torch.ops.falcon.panel()
    missing = -outputs % panel
    whole, scales = torch.empty(0), []
    for start in range(0, outputs, _ROWS):
        part_OI = rows[start : start + _ROWS].detach()
        panels, scale_O = _panels(_padded(part_OI, 0, -len(part_OI) % panel), format, panel)
        if not start:
            whole = ARENA.empty(((outputs + missing) // panel, *panels.shape[1:]), panels.dtype)
        whole[start // panel : start // panel + len(panels)] = panels
        scales.append(scale_O)
    bias = torch.empty(0) if bias_O is None else pad(bias_O.float(), (0, missing))
    return PackedMatrix(whole, torch.cat(scales), bias, outputs)


def _panels(weight_OI: Tensor, format: PackFormat, panel: int) -> tuple[Tensor, Tensor]:
    """Whole panels of some outputs, and a scale for each output of int8."""
    if format in _DTYPES:
        return weight_OI.to(_DTYPES[format]).unflatten(0, (-1, panel)).transpose(1, 2), torch.empty(0)
    weight_OI = _padded(weight_OI.float(), -weight_OI.shape[1] % BLOCK, 0)
    if format == "int4":
        return _int4(weight_OI, panel), torch.empty(0)
    if format == "bf16x2":
        return _side_by_side(weight_OI.bfloat16(), panel, 2), torch.empty(0)
    quantised_OI, scale_O = _int8(weight_OI)
    return _side_by_side(quantised_OI, panel, 4), scale_O


def _side_by_side(weight_OI: Tensor, panel: int, inputs: int) -> Tensor:
    """Panels in which so many inputs of an output are side by side: [O / panel, I / inputs, panel · inputs]."""
    return weight_OI.unflatten(0, (-1, panel)).unflatten(2, (-1, inputs)).transpose(1, 2).flatten(2)


def rewrite(matrix: PackedMatrix, places: Tensor, weights: Tensor) -> None:
    """Replace the weights of some outputs, in place, in an fp32, bf16, bf16x2 or int8 matrix."""
    panel = torch.ops.falcon.panel()
    inputs = matrix.data.shape[2] // panel  # that are side by side
    side_by_side = matrix.data.unflatten(2, (panel, inputs))
    held = pad(weights, (0, matrix.data.shape[1] * inputs - weights.shape[1]))
    if matrix.data.dtype == torch.uint8:
        held, scale = _int8(held.float())
        matrix.scale_O[places] = scale
    side_by_side[places // panel, :, places % panel] = held.to(matrix.data.dtype).unflatten(1, (-1, inputs))


def _int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights to bytes around 128, with a scale for each output.

    They are stored as w + 128, because the processors' byte products want one unsigned factor.
    """
    largest_O = weight_OI.abs().amax(1)
    scale_O = torch.where(largest_O > 0, largest_O / 127, torch.ones_like(largest_O))
    return ((weight_OI / scale_O[:, None]).round() + 128).to(torch.uint8), scale_O


def _padded(weight_OI: Tensor, inputs: int, outputs: int) -> Tensor:
    """Zeros added at the ends; without any, the weights themselves and no copy."""
    return pad(weight_OI, (0, inputs, 0, outputs)) if inputs or outputs else weight_OI


def _int4(weight_OI: Tensor, panel: int) -> Tensor:
    """Quantise weights to 4 bits in blocks, with their steps and least values: [O / panel, I / 32, 20·panel] bytes."""
    blocks = weight_OI.unflatten(1, (-1, BLOCK))
    least = blocks.amin(2)
    step = (blocks.amax(2) - least) / 15
    least, step = (part.half() for part in (least, step))
    safe = torch.where(step > 0, step, torch.ones_like(step)).float()
    quantised = ((blocks - least.float()[..., None]) / safe[..., None]).round().clamp(0, 15).to(torch.uint8)
    low, high = quantised.view(-1, 2, panel // 2, *quantised.shape[1:]).unbind(1)  # [panels, panel / 2, blocks, 32]
    both = (low | high << 4).unflatten(3, (-1, 4)).permute(0, 2, 3, 1, 4).flatten(2)
    ends = [
        part.view(-1, panel, part.shape[1]).transpose(1, 2).contiguous().view(torch.uint8) for part in (step, least)
    ]
    return torch.cat([both, *ends], 2).contiguous()


def _bias(linears: Sequence[Linear]) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [
            torch.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().float()
            for linear in linears
        ]
    )


def _halves(rows: Tensor, half: int) -> Tensor:
    """[O, ...] as [O / half, half, ...], padded."""
    missing = -len(rows) % half
    filled = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
    return filled.unflatten(0, (-1, half))
