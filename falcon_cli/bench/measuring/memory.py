"""The most memory that a stretch of work held: the process's resident memory on a CPU, the allocator's on a GPU."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # proc(5): clear_refs


def with_peak_memory(work: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """Do some work; returns its result and the peak of memory meanwhile in bytes (None where no system tells it)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        result = work()
        return result, torch.cuda.max_memory_allocated(device)
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return work(), None
    result = work()
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    return result, int(peak[1]) * 1024 if peak else None
