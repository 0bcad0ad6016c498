"""Pack weights as the kernels read them: in panels of outputs, in fp32, bf16, int8 or int4.

    fp32, bf16   [N / P, K, P]          the P outputs of a panel stand side by side for each input
    int8         [N / P, K / 4, 4·P]    the same for four neighbouring inputs at a time, as w + 128; a scale per output
    int4         [N / P, K / 32, 20·P]  blocks of 32 inputs: w = step·q + least, q in 0..15, as in GGUF's Q4_1

A block of int4 holds 2·P bytes for each four inputs. The lower four bits belong to the panel's first half, the higher
four to its second half. P steps and P least values in fp16 follow.

Shapes: N outputs (padded to whole panels), K inputs (quantised: padded to whole blocks), P outputs of a panel (the
kernels choose it for the processor).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from falcon_cli.native.arena import ARENA
from falcon_cli.native.packed_matrix import PackedMatrix, WeightFormat

BLOCK = 32
"""How many inputs share a scale."""


def suits(linear: nn.Module) -> bool:
    """Whether the kernels take this layer: an ordinary linear one, with a multiple of 8 inputs."""
    return type(linear) is nn.Linear and linear.in_features % 8 == 0


def packed(linears: Sequence[nn.Linear], format: WeightFormat) -> PackedMatrix:
    """Linear layers of the same input as one matrix. Their outputs follow one another."""
    weight_NK = torch.cat([linear.weight.detach() for linear in linears])
    return pack(weight_NK, format, _bias(linears))


def packed_gate_up(gate: nn.Linear, up: nn.Linear, format: WeightFormat) -> PackedMatrix:
    """Gate and up projection of a gated MLP as one matrix.

    The first half of each panel holds outputs of the gate, the second half the same outputs of the up projection. So
    the kernels multiply the two while both are in registers.
    """
    half = torch.ops.falcon.panel() // 2
    rows = [_halves(linear.weight.detach(), half) for linear in (gate, up)]
    weight_NK = torch.stack(rows, 1).flatten(0, 2)
    bias_N = _bias([gate, up])
    if bias_N is not None:
        bias_N = torch.stack([_halves(part, half) for part in bias_N.chunk(2)], 1).flatten()
    matrix = pack(weight_NK, format, bias_N)
    return PackedMatrix(matrix.data, matrix.scale_N, matrix.bias_N, 2 * gate.out_features)


def pack(weight_NK: Tensor, format: WeightFormat, bias_N: Tensor | None = None) -> PackedMatrix:
    """Pack a matrix into panels.

    Args:
        weight_NK: Any floating dtype; K is a multiple of 8.
        format: int8 rounds to 1/127 of each output's largest weight. int4 rounds to 1/15 of the range of each block of
            32, which leaves weights from a GGUF file of that format as they are.
        bias_N: Added to the outputs.
    """
    outputs, panel = len(weight_NK), torch.ops.falcon.panel()
    missing = -outputs % panel
    weight_NK = pad(weight_NK, (0, 0, 0, missing))
    bias = torch.empty(0) if bias_N is None else pad(bias_N.float(), (0, missing))
    if format in ("fp32", "bf16"):
        dtype = torch.float32 if format == "fp32" else torch.bfloat16
        data = weight_NK.to(dtype).unflatten(0, (-1, panel)).transpose(1, 2)
        return PackedMatrix(ARENA.copy_in(data), torch.empty(0), bias, outputs)
    weight_NK = pad(weight_NK.float(), (0, -weight_NK.shape[1] % BLOCK))
    if format == "int4":
        return PackedMatrix(ARENA.copy_in(_int4(weight_NK, panel)), torch.empty(0), bias, outputs)
    quantised_NK, scale_N = _int8(weight_NK)
    data = quantised_NK.unflatten(0, (-1, panel)).unflatten(2, (-1, 4)).transpose(1, 2).flatten(2)
    return PackedMatrix(ARENA.copy_in(data), scale_N, bias, outputs)


def rewrite(matrix: PackedMatrix, places_S: Tensor, weight_SK: Tensor) -> None:
    """Replace the weights of some outputs, in place, in an fp32, bf16 or int8 matrix."""
    panel = torch.ops.falcon.panel()
    if matrix.data.dtype != torch.uint8:
        matrix.data[places_S // panel, :, places_S % panel] = weight_SK.to(matrix.data.dtype)
        return
    quantised_SK, scale_S = _int8(pad(weight_SK.float(), (0, -weight_SK.shape[1] % BLOCK)))
    fours = matrix.data.unflatten(2, (panel, 4))
    fours[places_S // panel, :, places_S % panel] = quantised_SK.unflatten(1, (-1, 4))
    matrix.scale_N[places_S] = scale_S


def _int8(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights to bytes around 128, with a scale for each output.

    They are stored as w + 128, because the processors' byte products want one unsigned factor.
    """
    largest_N = weight_NK.abs().amax(1)
    scale_N = torch.where(largest_N > 0, largest_N / 127, torch.ones_like(largest_N))
    return ((weight_NK / scale_N[:, None]).round() + 128).to(torch.uint8), scale_N


def _int4(weight_NK: Tensor, panel: int) -> Tensor:
    """Quantise weights to 4 bits in blocks, with their steps and least values: [N / P, K / 32, 20·P] bytes."""
    blocks_NBK = weight_NK.unflatten(1, (-1, BLOCK))
    least_NB = blocks_NBK.amin(2)
    step_NB = (blocks_NBK.amax(2) - least_NB) / 15
    least_NB, step_NB = (part.half() for part in (least_NB, step_NB))
    safe_NB = torch.where(step_NB > 0, step_NB, torch.ones_like(step_NB)).float()
    quantised_NBK = (
        ((blocks_NBK - least_NB.float()[..., None]) / safe_NB[..., None]).round().clamp(0, 15).to(torch.uint8)
    )
    low, high = quantised_NBK.view(-1, 2, panel // 2, *quantised_NBK.shape[1:]).unbind(1)  # [N / P, P / 2, B, 32]
    both = (low | high << 4).unflatten(3, (-1, 4)).permute(0, 2, 3, 1, 4).flatten(2)
    ends = [
        part.view(-1, panel, part.shape[1]).transpose(1, 2).contiguous().view(torch.uint8)
        for part in (step_NB, least_NB)
    ]
    return torch.cat([both, *ends], 2).contiguous()


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
