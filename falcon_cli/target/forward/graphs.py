"""Scoring in fixed shapes, so that one compiled graph (on a GPU: one CUDA graph) serves every draft of a size.

What changes from draft to draft is the content of tensors, never their shape: a draft is padded to the next power of
two, its rows are written where a tensor of slots says, and a mask over the whole cache says what each row sees:

    slots      0 ...... length−1   length ... length+T−1   ... length+P−1   ...... S−1
    node       1 1 1 1 1 1 1 1 1   its ancestors           .                .
    padding    .                   .                       its own slot     .

So graphs are made for each power of two that occurs, and again when the cache doubles; `made` counts them.

Shapes: T rows, padded to a power of two, S slots of the cache, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from falcon_cli.attention.view import View
from falcon_cli.console import warn
from falcon_cli.errors import first_line
from falcon_cli.kv_cache import SlotCache
from falcon_cli.target.forward.own import CausalForward

MOST_GRAPHS = 64
FIRST_HELD = 5
"""Place of the cache's first tensor among a graph's inputs."""


@dataclass
class FixedView:
    """A `View` of fixed shape; rows lie anywhere in the cache."""

    seen_TS: Tensor
    position_T: Tensor
    slot_position_S: Tensor
    committed: int = -1
    ancestors_TC: Tensor | None = None
    fixed: bool = True

    def mask_TS(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """Additive mask [P, S], 0 or −inf."""
        seen_TS = self.seen_TS
        if window is not None:
            seen_TS = seen_TS & (self.position_T[:, None] - self.slot_position_S < window)
        return torch.zeros(seen_TS.shape, dtype=dtype, device=seen_TS.device).masked_fill_(~seen_TS, float("-inf"))

    def own_TC(self) -> Tensor:
        """All slots: which of them are committed is content here."""
        return self.seen_TS


@dataclass
class FixedCache:
    """What transformers' models need of a cache; rows go where `slot_T` says.

    Args:
        held: The one buffer of a `StaticCache`, or of a `LayerCache` each layer's keys and values.
        slot_T: The rows' slots.
    """

    held: tuple[Tensor, ...]
    slot_T: Tensor

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the rows; returns all slots."""
        if len(self.held) == 1:
            whole = self.held[0][0, layer], self.held[0][1, layer]
        else:
            whole = self.held[2 * layer], self.held[2 * layer + 1]
        for slots, rows in zip(whole, (keys, values), strict=True):
            slots.index_copy_(2, self.slot_T, rows)
        return whole

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """All slots, and the first one's position."""
        return self.held[0].shape[-2], 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Nobody may ask: how much is committed is content, not shape."""
        return 0

    get_query_offset = get_seq_length


class FixedReader:
    """A model of transformers in fixed shapes.

    Args:
        forward: Of the model; its attention is sdpa's.
    """

    def __init__(self, forward: CausalForward):
        self.forward = forward
        self.made = 0
        """Graphs compiled so far."""
        self._compiled: Any = torch.compile(self._forward, backend=self._compile, dynamic=False)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        self._static: dict[int, Tensor] = {}

    def run_eagerly(self) -> None:
        """Compile nothing: the same shapes on torch's operators."""
        self._compiled = self._forward

    def read(self, tokens_T: Tensor, view: View, cache: SlotCache) -> tuple[Tensor, Tensor]:
        """Logits [T, V] and features [T, D] of the nodes, whose keys and values are written behind the committed."""
        nodes, rows = len(tokens_T), 1 << (len(tokens_T) - 1).bit_length()
        cache.reserve(rows)
        inputs = (self._padded(tokens_T, rows), *self._fixed(view, rows, cache), *cache.tensors())
        logits, features = self._run(inputs)
        return logits[:nodes].clone(), features[:nodes].clone()  # a CUDA graph writes over its outputs the next time

    def _fixed(self, view: View, rows: int, cache: SlotCache) -> tuple[Tensor, ...]:
        """Everything about a draft that is content: positions, slots, what is seen, and the slots' positions."""
        device, length, nodes = view.depth_T.device, cache.length, len(view.depth_T)
        slot_T = torch.arange(length, length + rows, device=device)
        position_T = self._padded(view.depth_T, rows) + length
        seen_TS = torch.zeros(rows, cache.capacity, dtype=torch.bool, device=device)
        seen_TS[:nodes, :length] = True
        seen_TS[:nodes, length : length + nodes] = view.own_TC()
        seen_TS[torch.arange(nodes, rows, device=device), slot_T[nodes:]] = True
        slot_position_S = torch.arange(cache.capacity, device=device).index_copy(0, slot_T, position_T)
        return position_T, slot_T, seen_TS, slot_position_S

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        for held in inputs[FIRST_HELD:]:
            if held.device.type == "cuda" and id(held) not in self._static:
                self._static[id(held)] = held
                torch._dynamo.mark_static_address(held)
        try:
            return self._compiled(*inputs)
        except Exception as error:  # the compiler's, or no compiler
            warn(f"--compile does not work here ({first_line(error)}); going on without")
            self._compiled = self._forward
            return self._forward(*inputs)

    def _forward(
        self,
        tokens_T: Tensor,
        position_T: Tensor,
        slot_T: Tensor,
        seen_TS: Tensor,
        slot_position_S: Tensor,
        *held: Tensor,
    ) -> tuple[Tensor, Tensor]:
        view, cache = FixedView(seen_TS, position_T, slot_position_S), FixedCache(held, slot_T)
        return self.forward(tokens_T, cache, view)

    def _compile(self, graph: Any, inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx

        self.made += 1
        return compile_fx(graph, inputs, config_patches={"triton.cudagraphs": torch.cuda.is_available()})

    @staticmethod
    def _padded(rows: Tensor, count: int) -> Tensor:
        """Rows with zeros behind them."""
        return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
