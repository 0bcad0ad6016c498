import mmap
from pathlib import Path

import pytest
import torch

from falcon_cli.bench.measuring import memory
from falcon_cli.bench.measuring.memory import with_peak_memory

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak")


def fill(size):
    """Takes memory from the system: an allocator may serve what other tests let go, which is resident already."""
    with mmap.mmap(-1, size) as pages:
        return sum(pages.write(bytes(2**20)) for _ in range(size // 2**20))


@linux
def test_each_stretch_has_a_peak_of_its_own():
    _, before = with_peak_memory(lambda: None, CPU)
    result, large = with_peak_memory(lambda: fill(2**28), CPU)
    _, after = with_peak_memory(lambda: None, CPU)
    assert result == 2**28
    assert large - before > 200e6
    assert large - after > 200e6


def test_where_no_system_tells_there_is_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "missing")
    assert with_peak_memory(lambda: 7, CPU) == (7, None)
