"""Scoring in fixed shapes, so that one compiled graph (on a GPU: one CUDA graph) serves every draft of a size.

What changes from draft to draft is the content of tensors, never their shape: a draft is padded to the next power of
two, its rows are written where a tensor of slots says, and a mask over the whole cache says what each row sees:

    slots      0 ...... length−1   length ... length+T−1   ... length+P−1   ...... S−1
    node       1 1 1 1 1 1 1 1 1   its ancestors           .                .
    padding    .                   .                       its own slot     .

So graphs are made for each power of two that occurs, and again when the cache doubles; `made` counts them.

Shapes: T nodes, P padded rows, S slots of the cache, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from falcon_cli.attention.view import View
from falcon_cli.console import warn
from falcon_cli.errors import first_line
from falcon_cli.kv_cache import StaticCache, cache_argument

MOST_GRAPHS = 64


@dataclass
class FixedView:
    """A `View` of fixed shape, for `attention/sdpa.py`; rows lie anywhere in the cache."""

    seen_PS: Tensor
    position_P: Tensor
    slot_position_S: Tensor
    committed: int = -1
    ancestors_TC: Tensor | None = None

    def mask_TS(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """Additive mask [P, S], 0 or −inf."""
        seen_PS = self.seen_PS
        if window is not None:
            seen_PS = seen_PS & (self.position_P[:, None] - self.slot_position_S < window)
        return torch.zeros(seen_PS.shape, dtype=dtype, device=seen_PS.device).masked_fill_(~seen_PS, float("-inf"))


@dataclass
class FixedCache:
    """What transformers' attention needs of a cache; rows go where `slot_P` says."""

    buffer_PCBGSH: Tensor
    slot_P: Tensor

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the rows; returns views of all slots."""
        held = self.buffer_PCBGSH[0, layer], self.buffer_PCBGSH[1, layer]
        for whole, rows in zip(held, (keys, values), strict=True):
            whole.index_copy_(2, self.slot_P, rows)
        return held


class FixedReader:
    """A decoder of transformers in fixed shapes.

    Args:
        decoder: Llama-like: `layers`, `norm` and `rotary_emb`; its attention is sdpa's.
    """

    def __init__(self, decoder: Any):  # transformers' models are untyped
        self.decoder, self._cache_argument = decoder, cache_argument(decoder.layers[0])
        self.made = 0
        """Graphs compiled so far."""
        self._compiled: Any = torch.compile(self._forward, backend=self._compile, dynamic=False)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        self._static: Tensor | None = None

    def read(self, embedded_TD: Tensor, view: View, cache: StaticCache) -> Tensor:
        """Features [T, D] of the nodes, whose keys and values are written behind the committed ones."""
        nodes, rows = len(embedded_TD), 1 << (len(embedded_TD) - 1).bit_length()
        cache.reserve(rows)
        inputs = (self._padded(embedded_TD, rows), *self._fixed(view, rows, cache), cache.buffer_PCBGSH)
        features_PD: Tensor = self._run(inputs)
        return features_PD[:nodes].clone()  # a CUDA graph writes over its output the next time

    def _fixed(self, view: View, rows: int, cache: StaticCache) -> tuple[Tensor, ...]:
        """Everything about a draft that is content: positions, slots, what is seen, and the slots' positions."""
        device, length, nodes = view.depth_T.device, cache.length, len(view.depth_T)
        slot_P = torch.arange(length, length + rows, device=device)
        position_P = self._padded(view.depth_T, rows) + length
        seen_PS = torch.zeros(rows, cache.capacity, dtype=torch.bool, device=device)
        seen_PS[:nodes, :length] = True
        seen_PS[:nodes, length : length + nodes] = view.own_TC()
        seen_PS[torch.arange(nodes, rows, device=device), slot_P[nodes:]] = True
        slot_position_S = torch.arange(cache.capacity, device=device).index_copy(0, slot_P, position_P)
        return position_P, slot_P, seen_PS, slot_position_S

    def _run(self, inputs: Sequence[Tensor]) -> Any:
        if inputs[-1].device.type == "cuda" and inputs[-1] is not self._static:
            self._static = inputs[-1]
            torch._dynamo.mark_static_address(self._static)
        try:
            return self._compiled(*inputs)
        except Exception as error:  # the compiler's, or no compiler
            warn(f"--compile does not work here ({first_line(error)}); going on without")
            self._compiled = self._forward
            return self._forward(*inputs)

    def _forward(
        self,
        embedded_PD: Tensor,
        position_P: Tensor,
        slot_P: Tensor,
        seen_PS: Tensor,
        slot_position_S: Tensor,
        buffer_PCBGSH: Tensor,
    ) -> Tensor:
        hidden = embedded_PD[None]
        rotary = self.decoder.rotary_emb(hidden, position_P[None])
        view, cache = FixedView(seen_PS, position_P, slot_position_S), FixedCache(buffer_PCBGSH, slot_P)
        for layer in self.decoder.layers:
            hidden = layer(
                hidden,
                attention_mask=None,
                position_embeddings=rotary,
                use_cache=True,
                falcon_view=view,
                **{self._cache_argument: cache},
            )
        features_PD: Tensor = self.decoder.norm(hidden)[0]
        return features_PD

    def _compile(self, graph: Any, inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx

        self.made += 1
        return compile_fx(graph, inputs, config_patches={"triton.cudagraphs": torch.cuda.is_available()})

    @staticmethod
    def _padded(rows: Tensor, count: int) -> Tensor:
        """Rows with zeros behind them."""
        return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
