"""The bandwidth bound: bytes of weights over the measured speed of reading."""

import pytest
import torch

from falcon_cli.bench.figures import bandwidth
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.model import TargetModel


@pytest.mark.parametrize("native", [False, True])
def test_the_bound_is_bandwidth_over_weights_as_they_are_held(tiny_model, monkeypatch, native):
    load_kernels()
    model = tiny_model(dtype=torch.float32)
    target = TargetModel(model, native=swap_model(model, "int8") if native else None)
    monkeypatch.setattr(bandwidth, "read_bandwidth", lambda device, huge: {native: 20e9}[huge])
    figures = bandwidth.bandwidth_bound(target)
    assert figures["weights_mb"] == pytest.approx(target.weight_bytes() / 1e6)
    assert figures["bandwidth_bound_tokens_per_second"] == pytest.approx(20e9 / target.weight_bytes())
    assert figures["read_bandwidth_gb_per_second"] == pytest.approx(20)


@pytest.mark.parametrize("huge", [False, True])
def test_reading_takes_time(monkeypatch, huge):
    load_kernels()
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 1 << 24)
    assert 1e8 < bandwidth.read_bandwidth(torch.device("cpu"), runs=2, huge=huge) < 1e13
