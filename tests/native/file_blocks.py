"""Matrices of random numbers in GGUF's formats."""

import torch

from falcon_cli.native.quantized import QuantizedTensor

SHAPES = {
    "Q4_0": (32, 18, [0]),
    "Q4_1": (32, 20, [0, 2]),
    "Q5_0": (32, 22, [0]),
    "Q5_1": (32, 24, [0, 2]),
    "Q8_0": (32, 34, [0]),
    "Q4_K": (256, 144, [0, 2]),
    "Q5_K": (256, 176, [0, 2]),
    "Q6_K": (256, 210, [208]),
}
"""Format → inputs and bytes of a block, and where in it halves stand."""
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def random_tensor(kind, outputs, inputs, seed=0):
    """Every byte is random but the scales, which are ordinary numbers."""
    drawn = torch.Generator().manual_seed(seed)
    if kind in FLOATS:
        rows = torch.randn(outputs, inputs, generator=drawn).to(FLOATS[kind]).view(torch.uint8)
        return QuantizedTensor(kind, rows, (outputs, inputs))
    width, size, halves = SHAPES[kind]
    blocks = torch.randint(0, 256, (outputs, inputs // width, size), dtype=torch.uint8, generator=drawn)
    for place in halves:
        scale = torch.randn(*blocks.shape[:2], 1, generator=drawn) / 64
        blocks[..., place : place + 2] = scale.half().view(torch.uint8)
    return QuantizedTensor(kind, blocks.flatten(1), (outputs, inputs))
