"""What the parts of a forward take on the kernels, beside what the machine could do: memory read once, or arithmetic.

Each part's limit is the larger of two times: its bytes at the rate at which memory is read, and its multiply-adds at
the rate of the same instructions on registers alone. Both rates are measured in the same run.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from falcon_cli.bench.figures.bandwidth import read_bandwidth
from falcon_cli.core import Draft
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.packed_matrix import PackedMatrix
from falcon_cli.native.panel_cache import PanelCache
from falcon_cli.target.model import TargetModel

MATRICES, HEAD, ATTENTION = "matrices", "LM head", "attention"
PARTS = (MATRICES, HEAD, ATTENTION)
_HEADS = {"falcon::linear", "falcon::best"}
_FORWARDS = 5
_ARITHMETIC = {
    "fma": "of floats",
    "dot4": "of 8 bits",
    "dot2": "of 4 to 6 bits",
    "bf16": "of bf16",
    "amx": "of 4 to 8 bits by AMX",
    "amx-bf16": "of bf16 by AMX",
}


@dataclass(frozen=True)
class Peaks:
    """What the machine can do."""

    bytes: float
    """Bytes of memory a second."""
    multiply_adds: Mapping[str, float]
    """Arithmetic (`vectors.h`) → multiply-adds a second."""

    @staticmethod
    def measured() -> "Peaks":
        """Those of this machine, now, with the threads that torch has."""
        rates = {name: torch.ops.falcon.peak(name) for name in _ARITHMETIC}
        there = {name: rate for name, rate in rates.items() if rate}  # else the processor cannot
        return Peaks(read_bandwidth(torch.device("cpu"), huge=True), there)

    def __str__(self) -> str:
        rates = ", ".join(f"{rate / 1e9:.0f} {_ARITHMETIC[name]}" for name, rate in self.multiply_adds.items())
        return f"memory gives {self.bytes / 1e9:.0f} GB/s; billion multiply-adds a second: {rates}"

    def milliseconds(self, read: float, multiply_adds: float, arithmetic: str) -> float:
        """What so much work takes at least."""
        return 1e3 * max(read / self.bytes, multiply_adds / self.multiply_adds[arithmetic])


def limits(target: TargetModel, context: int, nodes: int, peaks: Peaks) -> dict[str, float]:
    """Part → milliseconds that it takes at least, for a chain of nodes after that many tokens."""
    assert target.native is not None
    assert target.native.decoder is not None
    assert isinstance(target.cache, PanelCache)
    layers, groups, _, size, _ = target.cache.keys.shape
    slots = context + nodes
    read = 2 * layers * groups * slots * size * target.cache.keys.element_size()
    scored = layers * target.config.num_attention_heads * size * nodes * (context + (nodes + 1) / 2)
    heads = [target.head.matrix] if isinstance(target.head, NativeLinear) else []
    return {
        MATRICES: _limit(target.native.decoder.matrices, nodes, peaks),
        HEAD: _limit(heads, nodes, peaks),
        ATTENTION: peaks.milliseconds(read, 2 * scored, "fma"),
    }


def taken(target: TargetModel, draft: Draft) -> dict[str, float]:
    """Part → milliseconds of one forward over a draft, by torch's profiler: the mean of a few."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for _ in range(_FORWARDS):
            target.score(draft)
    spent: dict[str, float] = defaultdict(float)
    for event in trace.events():
        part = _part_of(event)
        if part is not None:
            spent[part] += event.self_cpu_time_total / 1e3 / _FORWARDS
    return {part: spent[part] for part in PARTS}


def _limit(matrices: Iterable[PackedMatrix], rows: int, peaks: Peaks) -> float:
    return sum(
        peaks.milliseconds(matrix.bytes, rows * matrix.handle.multiply_adds(), matrix.handle.arithmetic(rows))
        for matrix in matrices
    )


def _part_of(event: Any) -> str | None:
    names = set()
    while event is not None:
        names.add(event.name)
        event = event.cpu_parent
    if names & _HEADS:
        return HEAD
    if "falcon::attention" in names:
        return ATTENTION
    return MATRICES if "falcon::product" in names else None
