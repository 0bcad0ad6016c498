"""The matrix class that Python and the operators share."""

import gc
from copy import deepcopy

import pytest
import torch

from falcon_cli.native.arena import Arena
from falcon_cli.native.packed_matrix import PackedMatrix, product, top_k
from falcon_cli.native.weights import pack, rewrite

FORMATS = ("fp32", "bf16", "bf16x2", "int8", "int4")
EMPTY = torch.empty(0)


def rows_of(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def panels(*shape, dtype=torch.float32):
    """Weights of ones for panels of the processor's size P: `...` stands for P."""
    panel = torch.ops.falcon.panel()
    return torch.ones([panel if size is ... else size for size in shape], dtype=dtype)


@pytest.mark.parametrize("format", FORMATS)
def test_the_operators_object_holds_the_memory(format):
    rows, matrix = rows_of(3, 64, 1), pack(rows_of(50, 64), format, rows_of(1, 50)[0])
    expected = product(rows, matrix)
    handle = matrix.handle
    del matrix
    gc.collect()
    Arena().copy_in(torch.full((1000, 1000), 7.0))  # whatever was freed would be overwritten
    assert torch.equal(handle.linear(rows), expected)


@pytest.mark.parametrize("format", ["fp32", "bf16", "bf16x2", "int8"])
def test_weights_rewritten_in_place_are_seen_by_all_that_share_them(format):
    weight, fresh, rows = rows_of(50, 64), rows_of(2, 64, 1), rows_of(3, 64, 2)
    matrix = pack(weight, format)
    part = matrix.first(20)
    weight[[3, 41]] = fresh
    rewrite(matrix, torch.tensor([3, 41]), fresh)
    expected = product(rows, pack(weight, format))
    assert torch.equal(product(rows, matrix), expected)
    assert torch.equal(product(rows, part), expected[:, :20])
    assert part.data.data_ptr() == matrix.data.data_ptr()


@pytest.mark.parametrize("format", FORMATS)
def test_a_copy_has_memory_of_its_own(format):
    rows, matrix = rows_of(3, 64, 1), pack(rows_of(50, 64), format)
    expected, copy = product(rows, matrix), deepcopy(matrix)
    matrix.data.zero_()
    assert torch.equal(product(rows, copy), expected)
    assert not torch.equal(product(rows, matrix), expected)


def test_a_matrix_cannot_be_changed():
    with pytest.raises(AttributeError):
        pack(rows_of(50, 64), "fp32").outputs = 3


@pytest.mark.parametrize(
    ("data", "scale", "bias", "outputs", "told"),
    [
        ((2, 8, ...), 0, 0, 0, "0 outputs do not fill 2 panels"),
        ((2, 8, 3), 0, 0, 1, r"no format holds panels of \d+ outputs as Float \[2, 8, 3\]"),
        ((8, ...), 0, 0, 1, "data must be contiguous panels"),
        ((1, 8, ...), 5, 0, 1, "scale must be 0 contiguous floats, not Float"),
        ((1, 8, ...), 0, 5, 1, r"bias must be \d+ contiguous floats, not Float \[5\]"),
    ],
)
def test_shapes_that_the_kernels_do_not_know_are_one_clear_line(data, scale, bias, outputs, told):
    with pytest.raises(RuntimeError, match=f"^PackedMatrix: .*{told}") as error:
        PackedMatrix(panels(*data), torch.ones(scale), torch.ones(bias), outputs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16, torch.int8])
def test_dtypes_that_the_kernels_do_not_know_are_one_clear_line(dtype):
    with pytest.raises(RuntimeError, match=r"^PackedMatrix: no format holds panels") as error:
        PackedMatrix(panels(1, 8, ..., dtype=dtype), EMPTY, EMPTY, 1)
    assert "\n" not in str(error.value)


def test_memory_that_is_not_contiguous_is_refused():
    with pytest.raises(RuntimeError, match="contiguous"):
        PackedMatrix(panels(1, ..., 8).transpose(1, 2), EMPTY, EMPTY, 1)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("width", "told"), [(32, "rows of 32 inputs for a matrix of 64"), (60, "eights, not 60")])
def test_rows_of_another_width_are_refused(format, width, told):
    matrix = pack(rows_of(50, 64), format)
    for operator in (product, lambda rows, matrix: top_k(rows, matrix, 1)):
        with pytest.raises(RuntimeError, match=told):
            operator(rows_of(2, width), matrix)


def test_more_of_the_best_than_there_are_is_refused():
    with pytest.raises(RuntimeError, match="the best 6 of 5 outputs"):
        top_k(rows_of(1, 64), pack(rows_of(5, 64), "fp32"), 6)


def test_other_objects_are_refused():
    mixer = pack(rows_of(32, 64), "fp32").handle
    with pytest.raises(RuntimeError, match="PackedMatrix"):
        torch.classes.falcon.Drafter(EMPTY, None, None, None)
    with pytest.raises(RuntimeError, match=r"Drafter: a gate and a change, or none"):
        torch.classes.falcon.Drafter(mixer, None, mixer, None)
