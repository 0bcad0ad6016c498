"""A model's parts on the kernels.

Shapes: T rows of a forward, D hidden size, H head size, C uncommitted rows of the cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from falcon_cli.attention.view import View
from falcon_cli.native.packed_matrix import Best, PackedMatrix, WeightFormat, best, product
from falcon_cli.native.panel_cache import PanelCache
from falcon_cli.native.quantized import QuantizedLinear
from falcon_cli.native.weights import Linear, packed, packed_gate_up, packed_parts

Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""transformers' rotary embedding: any tensor of a dtype, positions [1, S] → cosines and sines [1, S, H]."""


class NativeLinear(nn.Module):
    """A linear layer, or the LM head.

    Args:
        linear: The layer.
        format: How the weights are stored.
        keep: Keep the original `weight` and `bias` as well, for other readers (a `QuantizedTensor` of a file's blocks).
    """

    def __init__(self, linear: Linear, format: WeightFormat, keep: bool = False):
        super().__init__()
        self.matrix = packed([linear], format)
        if keep:
            self.weight = linear.tensor if isinstance(linear, QuantizedLinear) else linear.weight
            self.bias = linear.bias

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs [..., N] of rows [..., K]."""
        return product(rows.float(), self.matrix)

    def best(self, rows: Tensor) -> Best:
        """The largest output of each row [T, K]."""
        return best(rows.float(), self.matrix)


class PackedLayer(nn.Module):
    """A placeholder for a decoder layer whose weights a `NativeDecoder` has taken. It remembers the layer's class."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.family = family_of(layer)


class NativeDecoder(nn.Module):
    """Decoder layers, and the norm behind them, in one operator for any number of rows.

    Args:
        layers: transformers' layers (`swap.FAMILIES` tells which ones). Each is replaced by a `PackedLayer` as soon as
            it is packed, so that never more than one layer is in memory twice.
        norm: The final norm; None leaves it out.
        rotary: The rotary embedding.
        format: How the weights are stored.
    """

    def __init__(self, layers: nn.ModuleList, norm: Any, rotary: Rotary, format: WeightFormat):
        super().__init__()
        first: Any = layers[0]
        scale, epsilon = first.self_attn.scaling, first.input_layernorm.variance_epsilon
        self._layers = len(layers)
        self._head_size: int = first.self_attn.head_dim
        self._kv_heads: int = first.self_attn.k_proj.out_features // self._head_size
        self._cache_dtype = torch.float32 if format == "fp32" else torch.float16
        self.matrices: list[PackedMatrix] = []
        handles = []
        for index, layer in enumerate(layers):
            handles.append(self._pack(layer, format))
            layers[index] = PackedLayer(layer)
        final_norm_D = None if norm is None else _weight(norm)
        self._handle = torch.classes.falcon.Decoder(handles, final_norm_D, epsilon, scale)
        self._rotary, self._tables = rotary, (torch.empty(0, 0), torch.empty(0, 0))

    def new_cache(self, limit: int, capacity: int = 1024) -> PanelCache:
        """An empty cache for these layers: of fp16 numbers, where weights are not fp32."""
        return PanelCache(self._layers, self._kv_heads, self._head_size, limit, self._cache_dtype, capacity)

    def forward(self, hidden_TD: Tensor, view: View, cache: PanelCache, context_TD: Tensor | None = None) -> Tensor:
        """The rows' outputs [T, D]. Their keys and values are written behind what the cache holds.

        With a context, keys and values of all layers are made of the context (a drafter's one layer needs this).
        """
        return self._read(hidden_TD, view.depth_T, [view], [cache], context_TD)

    def read_together(self, hidden_TD: Tensor, views: Sequence[View], caches: Sequence[PanelCache]) -> Tensor:
        """The outputs [T, D] of the rows of several texts, which follow one another; each text has its own cache.

        A row's bits are those that it has without the other texts. All views are chains, or none is.
        """
        return self._read(hidden_TD, torch.cat([view.depth_T for view in views]), views, caches, None)

    def _read(
        self,
        hidden_TD: Tensor,
        depth_T: Tensor,
        views: Sequence[View],
        caches: Sequence[PanelCache],
        context_TD: Tensor | None,
    ) -> Tensor:
        most = max(cache.capacity for cache in caches)
        if most > len(self._tables[0]):
            self._tables = self._rotate_up_to(most)
        outputs_TD: Tensor = self._handle.forward(
            hidden_TD,
            None if context_TD is None else context_TD.contiguous(),
            *self._tables,
            depth_T,
            [cache.keys for cache in caches],
            [cache.values for cache in caches],
            [view.committed for view in views],
            [len(view.depth_T) for view in views],
            [view.ancestors_TC.contiguous() for view in views if view.ancestors_TC is not None],
        )
        return outputs_TD

    def _pack(self, layer: Any, format: WeightFormat) -> Any:
        """The layer as a `torch.classes.falcon.DecoderLayer`."""
        attention, mlp = layer.self_attn, layer.mlp
        qkv = packed_parts([attention.q_proj, attention.k_proj, attention.v_proj], format)
        matrices = [
            packed([attention.o_proj], format),
            packed_gate_up(mlp.gate_proj, mlp.up_proj, format),
            packed([mlp.down_proj], format),
        ]
        norms = [_weight(layer.input_layernorm), _weight(layer.post_attention_layernorm)]
        head_norms = (
            [_weight(attention.q_norm), _weight(attention.k_norm)] if hasattr(attention, "q_norm") else [None] * 2
        )
        handles = [matrix.handle for matrix in matrices]
        self.matrices += [*qkv, *matrices]
        return torch.classes.falcon.DecoderLayer([matrix.handle for matrix in qkv], *handles, *norms, *head_norms)

    def _rotate_up_to(self, positions: int) -> tuple[Tensor, Tensor]:
        cosine, sine = self._rotary(torch.empty(0), torch.arange(positions)[None])
        return cosine[0].contiguous(), sine[0].contiguous()


def _weight(norm: Any) -> Tensor:
    weight_D: Tensor = norm.weight.detach().float()
    return weight_D


def family_of(layer: nn.Module) -> type:
    """transformers' class of a decoder layer. A `PackedLayer` and a drafter's layer remember it as `family`."""
    family: type = getattr(layer, "family", type(layer))
    return family


def linear_of(weight_OI: Tensor) -> nn.Linear:
    """A frozen linear layer on a weight that is there already."""
    linear = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight_OI, requires_grad=False)
    return linear
