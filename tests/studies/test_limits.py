import pytest
import torch

from falcon_cli.core import Draft
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.native.weights import pack
from falcon_cli.studies.limits import ATTENTION, HEAD, MATRICES, PARTS, Peaks, limits, taken
from falcon_cli.target.model import TargetModel

PEAKS = Peaks(1e9, {"fma": 2e9, "dot4": 4e9, "dot2": 8e9})


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    load_kernels()


@pytest.fixture
def native_target(tiny_model):
    def made(kind):
        model = tiny_model("llama-gqa", 4, dtype=torch.float32)
        return TargetModel(model, native=swap_model(model, kind))

    return made


@pytest.mark.parametrize(("read", "multiply_adds", "expected"), [(1e6, 0, 1), (1e6, 8e6, 4), (9e6, 8e6, 9)])
def test_the_slower_of_memory_and_arithmetic_is_the_limit(read, multiply_adds, expected):
    assert PEAKS.milliseconds(read, multiply_adds, "fma") == expected


@pytest.mark.parametrize(("kind", "arithmetic"), [("fp32", "fma"), ("bf16", "fma"), ("int8", "dot4"), ("int4", "dot2")])
def test_a_matrix_tells_its_work(kind, arithmetic):
    panel = torch.ops.falcon.panel()
    handle = pack(torch.ones(panel + 1, 64), kind).handle
    assert handle.multiply_adds() == 2 * panel * 64
    assert handle.arithmetic(4) == arithmetic


def test_limits_follow_from_the_models_sizes(native_target):
    target = native_target("fp32")
    decoder, head = target.native.decoder, target.head.matrix
    few, many = (limits(target, 30, nodes, PEAKS) for nodes in (1, 8))
    weights = sum(matrix.handle.multiply_adds() for matrix in decoder.matrices)
    assert few[MATRICES] == pytest.approx(1e3 * sum(matrix.bytes for matrix in decoder.matrices) / 1e9)
    assert many[MATRICES] == pytest.approx(1e3 * 8 * weights / 2e9, rel=0.05)
    assert many[HEAD] == pytest.approx(1e3 * 8 * head.handle.multiply_adds() / 2e9, rel=0.05)
    layers, groups, _, size, _ = target.cache.keys.shape
    assert few[ATTENTION] == pytest.approx(1e3 * 2 * layers * groups * 31 * size * 4 / 1e9)
    assert many[ATTENTION] == pytest.approx(1e3 * 2 * layers * 4 * size * 8 * 34.5 / 2e9)


def test_every_part_of_a_forward_is_timed(native_target):
    target = native_target("int8")
    target.prefill(torch.arange(3, 23))
    spent = taken(target, Draft.chain([3, 4, 5], target.device))
    assert tuple(spent) == PARTS
    assert all(milliseconds > 0 for milliseconds in spent.values())


def test_the_machines_own_rates():
    peaks = Peaks.measured()
    assert peaks.bytes > 1e8
    assert all(rate > 1e8 for rate in peaks.multiply_adds.values())
    assert str(peaks).startswith("memory gives ")
    with pytest.raises(RuntimeError, match="peak: fma, dot4, dot2, bf16, amx or amx-bf16, not dot8"):
        torch.ops.falcon.peak("dot8")
