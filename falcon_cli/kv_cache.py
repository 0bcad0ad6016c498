"""A static key-value cache: one buffer for all layers, written in place, cut and compacted without copies of the rest.

    slots    0 ........... length-1 │ length ............ length+T-1 │ free ........ capacity
             committed tokens       │ nodes of the draft being scored │

A draft's nodes are written behind the committed tokens, in node order. `commit` keeps an accepted path by moving
only the rows that are not in their place yet; whatever lies behind is overwritten by the next draft.

Shapes: S slots, G kv heads, H head size, T nodes. The buffer is [2, layers, 1, G, S, H]: keys, then values.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from falcon_cli.errors import FalconError


def cache_argument(module: Any) -> str:
    """What a module of transformers calls the cache among its forward's arguments."""
    return "cache" if "cache" in signature(type(module).forward).parameters else "past_key_values"  # before 5.24


class StaticCache(Cache):
    """Keys and values of one text; grows by doubling up to `limit` slots, never shrinks.

    Args:
        layers: Number of decoder layers.
        kv_heads: Key-value heads of a layer.
        head_size: Size of a head.
        limit: Most slots ever needed (context + the widest draft).
        dtype: The model's dtype.
        device: The model's device.
        capacity: Slots to begin with.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_size: int,
        limit: int,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int = 1024,
    ):
        self.limit = limit
        self.length = 0
        shape = (2, layers, 1, kv_heads, min(capacity, limit), head_size)
        self.buffer = torch.zeros(shape, dtype=dtype, device=device)
        self._layers = [StaticLayer(self, index) for index in range(layers)]
        super().__init__(layers=list(self._layers))
        self._hand_out_views()

    @property
    def capacity(self) -> int:
        """Slots allocated now."""
        return self.buffer.shape[-2]

    def reserve(self, nodes: int) -> None:
        """Make room for `nodes` more slots, doubling as needed.

        Raises:
            FalconError: More slots than the limit would be needed.
        """
        wanted = self.length + nodes
        if wanted > self.limit:
            raise FalconError(f"the text needs {wanted} cache slots, the limit is {self.limit}; use a shorter prompt")
        if wanted <= self.capacity:
            return
        capacity = self.capacity
        while capacity < wanted:
            capacity *= 2
        old = self.buffer
        shape = (*old.shape[:-2], min(capacity, self.limit), old.shape[-1])
        self.buffer = torch.zeros(shape, dtype=old.dtype, device=old.device)
        self.buffer[..., : self.length, :] = old[..., : self.length, :]
        self._hand_out_views()

    def commit(self, path: Sequence[int]) -> None:
        """Keep the nodes `path` (ascending, parents first) of the T just written; the others are forgotten."""
        for place, node in enumerate(path):
            if place != node:  # ascending, so place < node and no row is overwritten before it has moved
                source, goal = self.length + node, self.length + place
                self.buffer[..., goal, :] = self.buffer[..., source, :]
        self.length += len(path)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` committed tokens."""
        self.length = min(length, self.length)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Committed tokens (transformers' name for it)."""
        return self.length

    def _hand_out_views(self) -> None:
        for index, layer in enumerate(self._layers):
            layer.keys, layer.values = self.buffer[0, index], self.buffer[1, index]


class StaticLayer(CacheLayerMixin):
    """One layer's window on the shared buffer."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: StaticCache, index: int):
        super().__init__()
        self.cache, self.index = cache, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffer is allocated from the start."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write T rows [B, G, T, H] behind the committed ones; returns views of all rows so far, [B, G, S, H]."""
        begin = self.cache.length
        end = begin + key_states.shape[-2]
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots seen by a query of this length, and the first slot's position."""
        return self.cache.length + query_length, 0

    def get_seq_length(self) -> int:
        """Committed tokens."""
        return self.cache.length

    def get_max_length(self) -> int:
        """Slots at most."""
        return self.cache.limit
