import gc
from pathlib import Path

import pytest
import torch

from falcon_cli.bench import memory
from falcon_cli.bench.memory import with_peak_memory

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")


def fill(megabytes):
    return int(torch.ones(megabytes * 2**18).sum())


@linux
def test_each_stretch_has_a_peak_of_its_own():
    gc.collect()  # else what other tests left may be let go in the middle, and make room
    _, before = with_peak_memory(lambda: None, CPU)
    result, large = with_peak_memory(lambda: fill(256), CPU)
    _, after = with_peak_memory(lambda: None, CPU)
    assert result == 256 * 2**18
    assert large - before > 200e6
    assert large - after > 200e6


def test_where_no_system_tells_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "missing")
    assert with_peak_memory(lambda: 7, CPU) == (7, None)
