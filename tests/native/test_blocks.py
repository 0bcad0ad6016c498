"""The formats of GGUF files in the kernels: the numbers are the file's, bit for bit up to the order of sums."""

import pytest
import torch
from torch import nn

from falcon_cli.errors import FalconError
from falcon_cli.native.blocks import BLOCK_FORMATS, pack_blocks
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.packed_matrix import product
from falcon_cli.native.quantized import QuantizedLinear, QuantizedTensor
from falcon_cli.native.weights import packed, packed_gate_up, packed_parts
from tests.native.file_blocks import FLOATS, SHAPES, random_tensor

KINDS = [*SHAPES, *FLOATS]


def matrix_of(kind, outputs=72, inputs=512, bias_O=None):
    tensor = random_tensor(kind, outputs, inputs)
    return packed([QuantizedLinear(tensor, bias_O)], "file"), tensor[:]


def rows_of(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_every_format_that_the_kernels_take_is_tested():
    assert BLOCK_FORMATS.keys() == SHAPES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_hold_the_very_numbers_of_the_file(kind):
    """Unit vectors read them off: their 8 bits are exact."""
    matrix, weight_OI = matrix_of(kind)
    given = product(torch.eye(512), matrix).T
    size = weight_OI.abs().amax(1, keepdim=True)
    assert ((given - weight_OI).abs() <= 2e-6 * size).all()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 256), (100, 512), (2056, 768)])
def test_products_are_those_in_double_precision(kind, outputs, inputs):
    bias_O, rows = rows_of(1, outputs, 2)[0], rows_of(13, inputs, 3)
    matrix, weight_OI = matrix_of(kind, outputs, inputs, bias_O)
    expected = rows.double() @ weight_OI.double().T + bias_O.double()
    given = product(rows, matrix)
    assert (given - expected).norm() <= 2e-2 * expected.norm()  # inputs are rounded to 1/127 of the largest


@pytest.mark.parametrize("kind", SHAPES)
def test_sums_of_whole_numbers_are_exact(kind):
    """The largest inputs of one sign meet every weight: no sum of 16 bits may overflow."""
    matrix, weight_OI = matrix_of(kind, 64, 2048)
    rows = torch.full((3, 2048), 127.0)
    rows[1] = -127
    rows[2, ::2] = -127
    expected = rows.double() @ weight_OI.double().T
    largest = rows.abs().double() @ weight_OI.abs().double().T
    assert ((product(rows, matrix) - expected).abs() <= 2e-6 * largest).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_bytes_at_their_ends_do_not_overflow(kind):
    for byte in (0, 127, 128, 255):
        tensor = random_tensor(kind, 32, 512)
        blocks = torch.full_like(tensor.blocks.unflatten(1, (-1, SHAPES[kind][1])), byte)
        for place in SHAPES[kind][2]:
            blocks[..., place : place + 2] = torch.tensor([0.125]).half().view(torch.uint8)
        tensor = QuantizedTensor(kind, blocks.flatten(1), tensor.shape)
        rows = torch.full((2, 512), 127.0)
        rows[1] = -127
        expected = rows.double() @ tensor[:].double().T
        largest = rows.abs().double() @ tensor[:].abs().double().T
        assert ((product(rows, packed([QuantizedLinear(tensor)], "file")) - expected).abs() <= 2e-6 * largest).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_bits_whatever_stands_beside_it(kind):
    matrix, _ = matrix_of(kind, 100, 2304)
    rows = rows_of(64, 2304)
    alone = torch.cat([product(row[None], matrix) for row in rows])
    for count in range(2, 65):
        first = 7 % (65 - count)
        assert torch.equal(product(rows[first : first + count], matrix), alone[first : first + count])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 300, 511])
def test_a_row_with_an_input_that_is_no_number_has_no_output_that_is_one(kind, value, place):
    (matrix, _), rows = matrix_of(kind), rows_of(3, 512, 2)
    whole = product(rows, matrix)
    rows[1, place] = value
    broken = product(rows, matrix)
    assert not broken[1].isfinite().any()
    assert torch.equal(broken[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("kind", SHAPES)
def test_a_scale_that_is_no_number_is_refused(kind):
    for place in SHAPES[kind][2]:
        tensor = random_tensor(kind, 16, 256)
        blocks = tensor.blocks.unflatten(1, (-1, SHAPES[kind][1]))
        blocks[3, 0, place : place + 2] = torch.tensor([float("inf")]).half().view(torch.uint8)
        with pytest.raises(FalconError, match="scale is NaN or infinite"):
            pack_blocks(kind, pad_rows(blocks.flatten(1)))


def pad_rows(rows_OB):
    return torch.cat([rows_OB, rows_OB.new_zeros(-len(rows_OB) % torch.ops.falcon.panel(), rows_OB.shape[1])])


def test_a_format_that_the_kernels_do_not_know_is_one_clear_line():
    tensor = QuantizedTensor("Q2_K", torch.zeros(16, 84, dtype=torch.uint8), (16, 256))
    with pytest.raises(FalconError, match=r"hold no Q2_K weights .* use --quantize int8 or int4$"):
        packed([QuantizedLinear(tensor)], "file")


def test_neighbours_of_one_format_become_one_matrix():
    kinds = ["Q4_K", "Q4_K", "Q6_K"]
    linears = [QuantizedLinear(random_tensor(kind, 24, 256, seed)) for seed, kind in enumerate(kinds)]
    parts = packed_parts(linears, "file")
    assert [part.outputs for part in parts] == [48, 24]
    rows = rows_of(3, 256)
    alone = torch.cat([NativeLinear(linear, "file")(rows) for linear in linears], 1)
    assert torch.equal(torch.cat([product(rows, part) for part in parts], 1), alone)
    assert [part.outputs for part in packed_parts([nn.Linear(16, 8), nn.Linear(16, 8)], "int8")] == [16]


@pytest.mark.parametrize("kinds", [("Q4_K", "Q4_K"), ("Q4_K", "Q6_K"), ("F16", "F16")])
def test_gate_and_up_lie_side_by_side_whatever_their_formats(kinds):
    gate, up = (QuantizedLinear(random_tensor(kind, 40, 256, seed)) for seed, kind in enumerate(kinds))
    matrix, half = packed_gate_up(gate, up, "file"), torch.ops.falcon.panel() // 2
    rows = rows_of(3, 256)
    given = product(rows, matrix)
    for part, linear in enumerate((gate, up)):
        expected = rows.double() @ linear.tensor[:].double().T
        chosen = [place for place in range(80) if place // half % 2 == part][: 80 // 2]
        outputs = [place // (2 * half) * half + place % half for place in chosen]
        inside = [number for number, output in enumerate(outputs) if output < 40]
        found = given[:, [chosen[number] for number in inside]]
        wanted = expected[:, [outputs[number] for number in inside]]
        assert (found - wanted).norm() <= 2e-2 * wanted.norm()


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0"])
def test_symmetric_formats_keep_zero(kind):
    """A matrix's padding, and blocks without a scale, count nothing."""
    width, size, _ = SHAPES[kind]
    tensor = QuantizedTensor(kind, torch.zeros(16, 256 // width * size, dtype=torch.uint8), (16, 256))
    assert not product(rows_of(2, 256), packed([QuantizedLinear(tensor)], "file")).any()
