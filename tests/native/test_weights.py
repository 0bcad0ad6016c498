import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.packed_matrix import best, product, top_k
from falcon_cli.native.weights import pack, packed, packed_gate_up, suits

KINDS = ("fp32", "bf16", "bf16x2", "int8", "int4")
# of the outputs' norm: rounding of sums, of 8 bits, of inputs to 1/63 of their block, of weights to 1/15 of theirs
TOLERANCE = {"fp32": 3e-6, "bf16": 4e-3, "bf16x2": 6e-3, "int8": 2e-2, "int4": 0.1}


def rows_of(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def held(weight_OI, kind):
    """The weights in fp64 as the kernels hold them."""
    if kind == "int8":
        scale = weight_OI.double().abs().amax(1, keepdim=True).clamp_min(1e-300) / 127
        return (weight_OI.double() / scale).round() * scale
    if kind == "int4":
        return in_blocks(weight_OI).double()
    return weight_OI.to(torch.bfloat16 if kind in ("bf16", "bf16x2") else torch.float32).double()


def in_blocks(weight_OI):
    """Weights as GGUF's Q4_1 holds them: blocks of 32, w = step · q + least, both in fp16."""
    wide = pad(weight_OI, (0, -weight_OI.shape[1] % 32))
    blocks = wide.unflatten(1, (-1, 32))
    least = blocks.amin(2, keepdim=True)
    step = ((blocks.amax(2, keepdim=True) - least) / 15).half().float()
    least = least.half().float()
    whole = ((blocks - least) / step.clamp_min(1e-30)).round().clamp(0, 15)
    return (whole * step + least).flatten(1)[:, : weight_OI.shape[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 8), (1, 32), (100, 64), (193, 24), (64, 576)])
def test_products_are_torchs_in_double_precision(kind, outputs, inputs):
    weight, bias, rows = rows_of(outputs, inputs, 1), rows_of(1, outputs, 2)[0], rows_of(13, inputs, 3)
    expected = rows.double() @ weight.double().T + bias.double()
    given = product(rows, pack(weight, kind, bias))
    assert given.shape == (13, outputs)
    assert (given - expected).norm() <= TOLERANCE[kind] * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_bits_whatever_stands_beside_it(kind):
    matrix, rows = pack(rows_of(100, 72, 1), kind), rows_of(64, 72, 2)
    together = product(rows, matrix)
    for count in range(1, 65):
        for first in {0, 7 % (65 - count), 64 - count}:
            assert torch.equal(product(rows[first : first + count], matrix), together[first : first + count])


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_many_inputs_go_on_from_piece_to_piece(kind):
    """One row meets a panel in one go, several tiles of rows piece by piece, and many tiles in several turns."""
    weight, rows = rows_of(40, 2056, 1), rows_of(130, 2056, 2)
    matrix = pack(weight, kind)
    alone = torch.cat([product(row[None], matrix) for row in rows])
    expected = rows.double() @ weight.double().T
    assert (alone - expected).norm() <= TOLERANCE[kind] * expected.norm()
    for count in (2, 4, 5, 6, 7, 8, 11, 12, 13, 17, 40, 41, 49, 64, 97, 130):
        assert torch.equal(product(rows[:count], matrix), alone[:count])


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_have_no_outputs(kind):
    assert product(rows_of(0, 64), pack(rows_of(40, 64), kind)).shape == (0, 40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e6, 1e30])
def test_inputs_of_any_size(kind, scale):
    weight, rows = rows_of(40, 64, 1), rows_of(5, 64, 2) * scale
    expected = rows.double() @ held(weight, kind).T
    given = product(rows, pack(weight, kind))
    assert torch.isfinite(given).all()
    rounding = {"int8": 2e-2, "int4": 1e-2, "bf16x2": 4e-3}  # of inputs to 1/63 and 1/127 of their block, or to bf16
    assert (given - expected).norm() <= rounding.get(kind, 3e-6) * expected.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero_and_of_one_sign(kind):
    weight = rows_of(32, 16, 1).abs()
    weight[3] = 0
    rows = rows_of(3, 16, 2).abs()
    given, expected = product(rows, pack(weight, kind)), rows.double() @ weight.double().T
    assert (given[:, 3] == 0).all()
    expected = rows.double() @ held(weight, kind).T
    assert (given - expected).norm() <= TOLERANCE[kind] * expected.norm()


def test_int8_sums_are_exact_integers():
    generator = torch.Generator().manual_seed(5)
    weight = torch.randint(-127, 128, (48, 1024), generator=generator).float()
    rows = torch.randint(-63, 64, (7, 1024), generator=generator).float()
    weight[:, 0] = 127  # so that all scales are 1
    rows[:, ::32] = -63
    weight[0], rows[0] = 127, 63  # the worst pairs stand side by side
    assert torch.equal(product(rows, pack(weight, "int8")), rows @ weight.T)


def test_4_bit_weights_of_a_gguf_file_stay_as_they_are():
    generator = torch.Generator().manual_seed(6)
    weight = in_blocks(torch.randn(64, 96, generator=generator))
    assert torch.equal(in_blocks(weight), weight)
    rows = torch.randint(-127, 128, (5, 96), generator=generator).float()
    rows[:, ::32] = 127  # so that inputs are whole numbers already
    expected = rows.double() @ weight.double().T
    given = product(rows, pack(weight, "int4"))
    assert (given - expected).norm() <= 1e-6 * expected.norm()


def test_an_outlier_in_one_row_leaves_the_others_alone():
    """A scale for the whole batch would let rows leak into each other."""
    matrix, rows = pack(rows_of(32, 64, 1), "int8"), rows_of(2, 64, 2)
    alone = product(rows[:1], matrix)
    rows[1, 0] = 1e5
    assert torch.equal(product(rows, matrix)[:1], alone)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_one_input_are_packed_one_after_the_other(kind):
    first, second = nn.Linear(16, 24), nn.Linear(16, 8, bias=False)
    rows = rows_of(4, 16)
    together = product(rows, packed([first, second], kind))
    torch.testing.assert_close(together[:, :24], NativeLinear(first, kind)(rows), rtol=0, atol=0)
    torch.testing.assert_close(together[:, 24:], NativeLinear(second, kind)(rows), rtol=0, atol=0)


def test_gate_and_up_lie_side_by_side_in_each_panel():
    gate, up = nn.Linear(16, 20), nn.Linear(16, 20)
    matrix, half = packed_gate_up(gate, up, "fp32"), torch.ops.falcon.panel() // 2
    assert matrix.outputs == 40
    wide = matrix.data.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(wide[:half], gate.weight[:half])
    torch.testing.assert_close(wide[half : 2 * half], up.weight[:half])
    assert len(wide) == 2 * half * -(-20 // half)


def test_leading_dimensions_stay_and_other_dtypes_are_widened():
    linear = NativeLinear(nn.Linear(16, 5), "fp32")
    assert linear(rows_of(6, 16).view(2, 3, 16)).shape == (2, 3, 5)
    assert linear(rows_of(2, 16).bfloat16()).dtype == torch.float32


def test_which_layers_the_kernels_take():
    assert suits(nn.Linear(16, 3))
    assert not suits(nn.Linear(12, 3))
    assert not suits(nn.Embedding(8, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [5, 32, 77, 1000])
@pytest.mark.parametrize("count", [1, 5])
def test_the_best_outputs_are_those_of_the_product_of_equals_the_first(kind, outputs, count):
    """Every third weight stands twice, so that many outputs are equal."""
    weight_OI = rows_of(outputs, 32).repeat_interleave(3, 0)[::2][:outputs]
    rows, matrix = rows_of(7, 32, seed=1), pack(weight_OI, kind)
    found = top_k(rows, matrix, count)
    expected = product(rows, matrix)
    assert torch.equal(found.outputs_TN, expected)
    order = expected.sort(dim=-1, descending=True, stable=True).indices
    assert torch.equal(found.places_TX, order[:, :count])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [5, 32, 77, 1000, 5000])
@pytest.mark.parametrize("rows", [1, 7, 70])
def test_the_best_output_is_the_products_of_equals_the_first(kind, outputs, rows):
    """Every third weight stands twice; the bias is so low that no padding may win."""
    weight_OI = rows_of(outputs, 32).repeat_interleave(3, 0)[::2][:outputs]
    matrix = pack(weight_OI, kind, torch.full((outputs,), -1e3))
    found, expected = best(rows_of(rows, 32, seed=1), matrix), product(rows_of(rows, 32, seed=1), matrix)
    order = expected.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(found.place_T, order.indices[:, 0])
    assert torch.equal(found.value_T, order.values[:, 0])


def test_a_row_of_no_numbers_has_no_best_output():
    rows = rows_of(4, 32)
    rows[2, 5] = float("nan")
    found = best(rows, pack(rows_of(50, 32), "fp32"))
    assert found.value_T.isfinite().tolist() == [True, True, False, True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 7, 40, 71])
def test_a_row_with_an_input_that_is_no_number_has_no_output_that_is_one(kind, value, place):
    matrix, rows = pack(rows_of(100, 72, 1), kind), rows_of(3, 72, 2)
    whole = product(rows, matrix)
    rows[1, place] = value
    broken = product(rows, matrix)
    assert not broken[1].isfinite().any()
    assert torch.equal(broken[[0, 2]], whole[[0, 2]])
