"""Kernels for Intel's AMX give the bits of the other kernels. On processors without it, plain C++ stands in for it."""

import pytest
import torch

from falcon_cli.native.build import load_kernels
from falcon_cli.native.packed_matrix import best, product
from falcon_cli.native.quantized import QuantizedLinear, QuantizedTensor
from falcon_cli.native.weights import pack, packed
from tests.native.file_blocks import SHAPES, random_tensor

LEAST = 5
"""As many rows are AMX's; fewer are not."""


@pytest.fixture(autouse=True)
def amx():
    """Switch AMX on or off; after a test it is as it was."""
    load_kernels()
    before = torch.ops.falcon.use_amx()
    yield torch.ops.falcon.use_amx
    torch.ops.falcon.use_amx(before)


def rows_of(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def matrix_of(kind, outputs, inputs):
    bias_O = rows_of(1, outputs, 1)[0]
    if kind in ("int8", "bf16x2"):
        return pack(rows_of(outputs, inputs, 2), kind, bias_O)
    return packed([QuantizedLinear(random_tensor(kind, outputs, inputs), bias_O)], "file")


@pytest.mark.parametrize("kind", ["int8", *SHAPES])
def test_products_are_those_of_the_other_kernels(kind, amx):
    matrix, rows = matrix_of(kind, 100, 2304), rows_of(130, 2304)
    for count in (1, LEAST - 1, LEAST, 7, 15, 16, 17, 31, 32, 33, 48, 64, 65, 96, 97, 130):
        amx(False)
        expected = product(rows[:count], matrix)
        amx(True)
        assert matrix.handle.arithmetic(count) == ("amx" if count >= LEAST else matrix.handle.arithmetic(1))
        assert torch.equal(product(rows[:count], matrix), expected), count


@pytest.mark.parametrize("size", [1.0, 1e-20, 1e-38])
def test_sums_of_bf16_products_are_amxs_for_any_number_of_rows(amx, size):
    """Also of numbers so small that their products count as zero. Without AMX floats make the same sums."""
    matrix, rows = matrix_of("bf16x2", 100, 1000), size * rows_of(70, 1000)
    amx(True)
    assert matrix.handle.arithmetic(1) == "amx-bf16"
    alone = torch.cat([product(row[None], matrix) for row in rows])
    for count in (2, 15, 16, 17, 31, 32, 33, 48, 70):
        assert torch.equal(product(rows[:count], matrix), alone[:count]), count
    amx(False)
    if matrix.handle.arithmetic(1) == "fma":  # else the processor has sums of its own
        assert torch.equal(product(rows, matrix), alone)
    expected = rows.bfloat16().double() @ rows_of(100, 1000, 2).bfloat16().double().T + rows_of(1, 100, 1)[0]
    assert (alone - expected).norm() <= 1e-6 * expected.norm()


def test_inputs_that_fill_no_block(amx):
    matrix, rows = pack(rows_of(40, 72, 1), "int8"), rows_of(33, 72)
    amx(False)
    expected = product(rows, matrix)
    amx(True)
    assert torch.equal(product(rows, matrix), expected)


@pytest.mark.parametrize("kind", ["int8", *SHAPES])
def test_the_largest_numbers(kind, amx):
    """The largest inputs of one sign meet every byte of weights."""
    rows = torch.full((9, 512), 127.0)
    rows[1] = -127
    rows[2, ::2] = -127
    for byte in (0, 127, 128, 255):
        if kind == "int8":
            matrix = pack(torch.full((40, 512), (byte - 128) / 127), "int8")
        else:
            tensor = random_tensor(kind, 40, 512)
            blocks = torch.full_like(tensor.blocks.unflatten(1, (-1, SHAPES[kind][1])), byte)
            for place in SHAPES[kind][2]:
                blocks[..., place : place + 2] = torch.tensor([0.125]).half().view(torch.uint8)
            matrix = packed([QuantizedLinear(QuantizedTensor(kind, blocks.flatten(1), tensor.shape))], "file")
        amx(False)
        expected = product(rows, matrix)
        amx(True)
        assert torch.equal(product(rows, matrix), expected), byte


@pytest.mark.parametrize("kind", ["int8", "Q4_K"])
def test_a_row_that_is_no_number_hides_none_of_the_others(kind, amx):
    matrix, rows = matrix_of(kind, 100, 512), rows_of(20, 512)
    amx(True)
    whole = product(rows, matrix)
    rows[3, 300] = float("nan")
    broken = product(rows, matrix)
    assert not broken[3].isfinite().any()
    others = [row for row in range(20) if row != 3]
    assert torch.equal(broken[others], whole[others])


def test_the_best_of_many_outputs(amx):
    matrix, rows = matrix_of("int8", 3000, 576), rows_of(24, 576)
    amx(False)
    expected = best(rows, matrix)
    amx(True)
    given = best(rows, matrix)
    assert torch.equal(given.place_T, expected.place_T)
    assert torch.equal(given.value_T, expected.value_T)


def test_threads_set_up_registers_of_their_own(amx):
    matrix, rows = matrix_of("Q6_K", 2000, 512), rows_of(40, 512)
    amx(False)
    expected = product(rows, matrix)
    amx(True)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(product(rows, matrix), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("arithmetic", ["amx", "amx-bf16"])
def test_its_peak_is_measured(arithmetic, amx):
    amx(True)
    assert torch.ops.falcon.peak(arithmetic) > 0
