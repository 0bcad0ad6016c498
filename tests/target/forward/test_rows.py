"""Rows of an embedding or a head, whatever they are held as."""

import gguf
import pytest
import torch
from torch import nn

from falcon_cli.native.build import load_kernels
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedTensor
from falcon_cli.target.forward.rows import device_of, rows_of

NUMBERS = torch.randn(12, 32, generator=torch.Generator().manual_seed(1))
BLOCKS = QuantizedTensor(
    "Q8_0", torch.from_numpy(gguf.quantize(NUMBERS.numpy(), gguf.GGMLQuantizationType.Q8_0)), (12, 32)
)


@pytest.fixture
def plain():
    linear = nn.Linear(32, 12, bias=False)
    linear.weight = nn.Parameter(NUMBERS, requires_grad=False)
    return linear


def test_ordinary_layers_have_their_weights(plain):
    assert rows_of(plain) is plain.weight
    assert rows_of(nn.Embedding.from_pretrained(NUMBERS)).equal(NUMBERS)
    assert device_of(plain.weight) == torch.device("cpu")
    assert device_of(torch.empty(2, device="meta")) == torch.device("meta")


@pytest.mark.parametrize("kind", [QuantizedEmbedding, QuantizedLinear])
def test_layers_in_blocks_have_their_blocks(kind):
    assert rows_of(kind(BLOCKS)) is BLOCKS
    assert device_of(BLOCKS) == torch.device("cpu")


def test_a_head_on_the_kernels_has_what_it_was_made_of(plain):
    load_kernels()
    assert rows_of(NativeLinear(QuantizedLinear(BLOCKS), "int8", keep=True)) is BLOCKS
    assert rows_of(NativeLinear(plain, "int8", keep=True)) is plain.weight


def test_both_are_read_in_the_same_words(plain):
    for rows in (rows_of(plain), BLOCKS):
        assert (len(rows), tuple(rows.shape)) == (12, (12, 32))
        torch.testing.assert_close(rows[torch.tensor([[3, 0]])], NUMBERS[torch.tensor([[3, 0]])], atol=0.05, rtol=0)
        torch.testing.assert_close(rows[2:4], NUMBERS[2:4], atol=0.05, rtol=0)
