"""The baseline's own ceiling: a token of plain decoding reads every weight once."""

from time import perf_counter

import torch

from falcon_cli.target.model import TargetModel

BUFFER_BYTES = 1 << 29
"""Far larger than any cache level."""


def read_bandwidth(device: torch.device, runs: int = 7) -> float:
    """Bytes per second at which this device reads memory: the best of several sums over half a gigabyte."""
    buffer = torch.ones(BUFFER_BYTES // 4, dtype=torch.float32, device=device)
    fastest = float("inf")
    for _ in range(runs):
        began = perf_counter()
        float(buffer.sum())
        fastest = min(fastest, perf_counter() - began)
    return BUFFER_BYTES / fastest


def bandwidth_bound(target: TargetModel) -> dict[str, float]:
    """For the results document: read bandwidth in GB/s, weights in MB, and tokens/s that no plain decoding exceeds."""
    bandwidth, weights = read_bandwidth(target.device), target.weight_bytes()
    return {
        "read_bandwidth_gb_per_second": bandwidth / 1e9,
        "weights_mb": weights / 1e6,
        "bandwidth_bound_tokens_per_second": bandwidth / weights,
    }
