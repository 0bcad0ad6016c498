"""A static key-value cache, written in place, cut and compacted without copies of the rest.

    slots    0 ........... length-1 │ length ............ length+T-1 │ free ........ capacity
             committed tokens       │ nodes of the draft being scored │

A draft's nodes are written behind the committed tokens, in node order. `commit` keeps an accepted path by moving
only the rows that are not in their place yet; whatever lies behind is overwritten by the next draft.

`StaticCache` holds all layers in one buffer, `LayerCache` each layer's keys and values by themselves, for models whose
layers differ. The kernels have a cache of their own (`native/panel_cache.py`).

Shapes: S slots, G kv heads, H head size, T nodes. The buffer is [2, layers, 1, G, S, H]: keys, then values.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from falcon_cli.errors import FalconError

RECURRENT = "it keeps a recurrent state"


def cache_argument(module: Any) -> str:
    """What a module of transformers calls the cache among its forward's arguments."""
    return "cache" if "cache" in signature(type(module).forward).parameters else "past_key_values"  # before 5.24


class KeyValueCache(ABC):
    """Keys and values of one text; grows by doubling up to `limit` slots, never shrinks.

    Args:
        limit: Most slots ever needed (context + the widest draft).
        capacity: Slots to begin with.
    """

    def __init__(self, limit: int, capacity: int):
        self.limit, self.capacity = limit, min(capacity, limit)
        """Slots at most, and allocated now."""
        self.length = 0
        """Committed tokens."""

    @abstractmethod
    def grow(self) -> None:
        """Take memory for `capacity` slots, and keep what is committed."""

    @abstractmethod
    def move(self, source: int, goal: int) -> None:
        """Copy a slot's keys and values to another slot."""

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
        while self.capacity < wanted:
            self.capacity *= 2
        self.capacity = min(self.capacity, self.limit)
        self.grow()

    def commit(self, path: Sequence[int]) -> None:
        """Keep the nodes `path` (ascending, parents first) of the T just written; the others are forgotten."""
        for place, node in enumerate(path):
            if place != node:  # ascending, so place < node and no row is overwritten before it has moved
                self.move(self.length + node, self.length + place)
        self.length += len(path)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` committed tokens."""
        self.length = min(length, self.length)


class SlotCache(KeyValueCache, Cache):
    """A cache that transformers' models write. Every tensor of it has its slots on the last axis but one."""

    def __init__(self, limit: int, capacity: int, layers: "list[SlotLayer]"):
        KeyValueCache.__init__(self, limit, capacity)
        Cache.__init__(self, layers=list(layers))

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """All that is held, [..., S, H]."""

    @abstractmethod
    def replace(self, tensors: Sequence[Tensor]) -> None:
        """Hold these tensors instead, in the same order."""

    def grow(self) -> None:
        """See `KeyValueCache`."""
        self.replace([self._grown(tensor) for tensor in self.tensors()])

    def move(self, source: int, goal: int) -> None:
        """See `KeyValueCache`."""
        for tensor in self.tensors():
            tensor[..., goal, :] = tensor[..., source, :]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Committed tokens (transformers' name for it)."""
        return self.length

    def _grown(self, tensor: Tensor) -> Tensor:
        grown = tensor.new_zeros(*tensor.shape[:-2], self.capacity, tensor.shape[-1])
        grown[..., : self.length, :] = tensor[..., : self.length, :]
        return grown


class StaticCache(SlotCache):
    """All layers in one buffer.

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
        self._layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(limit, capacity, self._layers)
        self.replace([torch.zeros(2, layers, 1, kv_heads, self.capacity, head_size, dtype=dtype, device=device)])

    def tensors(self) -> list[Tensor]:
        """The buffer alone."""
        return [self.buffer]

    def replace(self, tensors: Sequence[Tensor]) -> None:
        """Hold another buffer."""
        (self.buffer,) = tensors
        for index, layer in enumerate(self._layers):
            layer.keys, layer.values = self.buffer[0, index], self.buffer[1, index]


class LayerCache(SlotCache):
    """Each layer's tensors by themselves, of the shapes that come with their first rows.

    Args:
        limit: Most slots ever needed (context + the widest draft).
        capacity: Slots to begin with.
    """

    def __init__(self, limit: int, capacity: int = 1024):
        self._layers: list[SlotLayer] = []
        super().__init__(limit, capacity, [])

    def layer(self, index: int) -> "SlotLayer":
        """The layer of this index, made when it is asked for first."""
        while len(self._layers) <= index:
            self._layers.append(SlotLayer(self))
            self.layers.append(self._layers[-1])
        return self._layers[index]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """See `SlotLayer.update`."""
        return self.layer(layer_idx).update(key_states, value_states)

    def update_indexer(self, indexer_key_states: Tensor, layer_idx: int) -> Tensor:
        """See `SlotLayer.update_indexer`."""
        return self.layer(layer_idx).update_indexer(indexer_key_states)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Refused: there are no recurrent states here.

        Raises:
            TypeError: Always.
        """
        raise TypeError(RECURRENT)

    def update_conv_state(self, *args: object, **kwargs: object) -> Tensor:
        """Refused, as `has_previous_state`."""
        raise TypeError(RECURRENT)

    update_recurrent_state = get_conv_state = get_recurrent_state = update_conv_state

    def tensors(self) -> list[Tensor]:
        """Layer by layer: keys, values, and an indexer's keys where there are some."""
        return [tensor for layer in self._layers for tensor in layer.held()]

    def replace(self, tensors: Sequence[Tensor]) -> None:
        """Hold these, in the order of `tensors`."""
        rest = iter(tensors)
        for layer in self._layers:
            layer.hold([next(rest) for _ in layer.held()])

    def uniform(self) -> tuple[int, int] | None:
        """Key-value heads and head size that all layers share in keys and values; None where they differ."""
        shapes = {(tensor.shape[1], tensor.shape[-1]) for tensor in self.tensors()}
        plain = all(len(layer.held()) == 2 for layer in self._layers)
        return shapes.pop() if len(shapes) == 1 and plain else None


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, and for layers that look only at some slots the keys by which they choose."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache):
        super().__init__()
        self.cache = cache
        self.indexer_keys: Tensor | None = None
        self.is_initialized = True

    def held(self) -> list[Tensor]:
        """What there is so far."""
        parts = (self.keys, self.values, self.indexer_keys)
        return [part for part in parts if part is not None]

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Hold others instead, in the order of `held`."""
        self.keys, self.values = tensors[:2]
        self.indexer_keys = tensors[2] if len(tensors) > 2 else None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate keys and values for all slots, as these rows are shaped."""
        self.keys, self.values = self._room(key_states), self._room(value_states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write T rows [B, G, T, H] behind the committed ones; returns views of all rows so far, [B, G, S, H]."""
        if self.keys is None:
            self.lazy_initialization(key_states, value_states)
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Write T rows [B, T, H] of an indexer's keys; returns all rows so far, [B, S, H]."""
        if self.indexer_keys is None:
            self.indexer_keys = self._room(indexer_key_states)
        return self._write(self.indexer_keys, indexer_key_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots seen by a query of this length, and the first slot's position."""
        return self.cache.length + query_length, 0

    def get_seq_length(self) -> int:
        """Committed tokens."""
        return self.cache.length

    def get_max_length(self) -> int:
        """Slots at most."""
        return self.cache.limit

    def _room(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(*rows.shape[:-2], self.cache.capacity, rows.shape[-1])

    def _write(self, whole: Tensor, rows: Tensor) -> Tensor:
        begin = self.cache.length
        end = begin + rows.shape[-2]
        whole[..., begin:end, :] = rows
        return whole[..., :end, :]
