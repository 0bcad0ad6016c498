"""The baseline's own ceiling: a token of plain decoding reads every weight once."""

from time import perf_counter

import torch

from falcon_cli.target.model import TargetModel

BUFFER_BYTES = 1 << 29
"""Far larger than any cache level."""


def read_bandwidth(device: torch.device, runs: int = 7, huge: bool = False) -> float:
    """Bytes per second at which this device reads memory: the best of several sums over half a gigabyte.

    Args:
        device: Whose memory.
        runs: Number of sums.
        huge: In huge pages, as the kernels hold their weights.
    """
    held = torch.ops.falcon.huge(BUFFER_BYTES) if huge else torch.empty(BUFFER_BYTES, dtype=torch.uint8, device=device)
    buffer = held.view(torch.float32).fill_(1)
    fastest = float("inf")
    for _ in range(runs):
        began = perf_counter()
        float(buffer.sum())
        fastest = min(fastest, perf_counter() - began)
    return BUFFER_BYTES / fastest


def bandwidth_bound(target: TargetModel) -> dict[str, float]:
    """For the results document: read bandwidth in GB/s, weights in MB, and plain tokens/s if nothing else took time."""
    bandwidth, weights = read_bandwidth(target.device, huge=target.native is not None), target.weight_bytes()
    return {
        "read_bandwidth_gb_per_second": bandwidth / 1e9,
        "weights_mb": weights / 1e6,
        "bandwidth_bound_tokens_per_second": bandwidth / weights,
    }
