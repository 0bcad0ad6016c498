"""The key-value cache of the kernels: packed matrices that grow by a slot with each token (`kernels/attention.h`).

    keys      [layers, G, S / panel, H, panel]    the slots of a panel are side by side for each place of the head
    values    [layers, G, H / panel, S, panel]    the places of a panel are side by side for each slot

Shapes: S slots (padded to whole panels), G kv heads, H head size (for values padded to whole panels).
"""

import torch

from falcon_cli.kv_cache import KeyValueCache


class PanelCache(KeyValueCache):
    """Keys and values of all layers in panels.

    Args:
        layers: Number of decoder layers.
        kv_heads: Key-value heads of a layer.
        head_size: Size of a head.
        limit: See `KeyValueCache`.
        dtype: fp32 or fp16.
        capacity: See `KeyValueCache`.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_size: int, limit: int, dtype: torch.dtype, capacity: int = 1024
    ):
        super().__init__(limit, capacity)
        self._panel: int = torch.ops.falcon.panel()
        slots, head_panels = self._panels(self.capacity), self._panels(head_size)
        self.keys = torch.zeros(layers, kv_heads, slots, head_size, self._panel, dtype=dtype)
        self.values = torch.zeros(layers, kv_heads, head_panels, slots * self._panel, self._panel, dtype=dtype)

    def grow(self) -> None:
        """See `KeyValueCache`."""
        panels, held = self._panels(self.capacity), self._panels(self.length)
        layers, heads, _, size, panel = self.keys.shape
        keys = self.keys.new_zeros(layers, heads, panels, size, panel)
        values = self.values.new_zeros(*self.values.shape[:3], panels * panel, panel)
        keys[:, :, :held] = self.keys[:, :, :held]
        values[..., : self.length, :] = self.values[..., : self.length, :]
        self.keys, self.values = keys, values

    def move(self, source: int, goal: int) -> None:
        """See `KeyValueCache`."""
        panel = self._panel
        self.keys[:, :, goal // panel, :, goal % panel] = self.keys[:, :, source // panel, :, source % panel]
        self.values[..., goal, :] = self.values[..., source, :]

    def _panels(self, size: int) -> int:
        return -(-size // self._panel)
