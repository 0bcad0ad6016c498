"""A model's parts on the kernels.

Shapes: T rows of a forward, D hidden size, H head size, C uncommitted rows of the cache, S positions of a rotary table.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from falcon_cli.attention.view import View
from falcon_cli.kv_cache import StaticCache
from falcon_cli.native.weights import Best, Kind, Matrix, best, packed, packed_gate_up, product

Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""transformers' rotary embedding: any tensor of a dtype, positions [1, S] → cosines and sines [1, S, H]."""


class NativeLinear(nn.Module):
    """A linear layer, or the LM head; its weights stay beside as `weight` if somebody else reads them too.

    Args:
        linear: The layer.
        kind: How the weights are held.
        keep: Keep the original weights as well.
    """

    def __init__(self, linear: nn.Linear, kind: Kind, keep: bool = False):
        super().__init__()
        self.matrix = packed([linear], kind)
        if keep:
            self.weight = linear.weight

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs [..., N] of rows [..., K]."""
        return product(rows.float(), self.matrix)

    def best(self, rows: Tensor) -> Best:
        """Outputs [T, N] of rows [T, K], and the largest one's place [T, 1]."""
        return best(rows.float(), self.matrix, 1)


class Packed(nn.Module):
    """Stands where a decoder layer stood whose weights a `NativeDecoder` has taken; remembers its class."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.family = family_of(layer)


class NativeDecoder(nn.Module):
    """Decoder layers, and the norm behind them, in one operator whatever the number of rows.

    Args:
        layers: transformers' layers (`swap.FAMILIES` tells which ones); each leaves a `Packed` in its place, so that
            never more than one layer is held twice.
        norm: The final norm; None leaves it out.
        rotary: The rotary embedding.
        kind: How the weights are held.
    """

    def __init__(self, layers: nn.ModuleList, norm: Any, rotary: Rotary, kind: Kind):
        super().__init__()
        first: Any = layers[0]
        self.factor: float = first.self_attn.scaling
        self.epsilon: float = first.input_layernorm.variance_epsilon
        self.matrices: list[Matrix] = []
        self.norms: list[Tensor] = []
        for index, layer in enumerate(layers):
            self._take(layer, kind)
            layers[index] = Packed(layer)
        if norm is not None:
            self.norms.append(_weight(norm))
        self.weights = (
            [matrix.data for matrix in self.matrices],
            [matrix.scale_N for matrix in self.matrices],
            [matrix.bias_N for matrix in self.matrices],
            [matrix.outputs for matrix in self.matrices],
            self.norms,
        )
        self._rotary, self._tables_SH = rotary, (torch.empty(0, 0), torch.empty(0, 0))

    def forward(self, hidden_TD: Tensor, view: View, cache: StaticCache, context_TD: Tensor | None = None) -> Tensor:
        """The rows' outputs [T, D]; their keys and values are written behind what the cache holds.

        Given a context, keys and values of all layers are made of that (a drafter's one layer).
        """
        if cache.capacity > len(self._tables_SH[0]):
            self._tables_SH = self._rotate_up_to(cache.capacity)
        outputs_TD: Tensor = torch.ops.falcon.decoder(
            hidden_TD,
            _NONE if context_TD is None else context_TD.contiguous(),
            *self.weights,
            *self._tables_SH,
            view.depth_T,
            cache.buffer_PCBGSH,
            view.committed,
            _ALL if view.ancestors_TC is None else view.ancestors_TC.contiguous(),
            self.epsilon,
            self.factor,
        )
        return outputs_TD

    def _take(self, layer: Any, kind: Kind) -> None:
        own, mlp = layer.self_attn, layer.mlp
        self.matrices += [
            packed([own.q_proj, own.k_proj, own.v_proj], kind),
            packed([own.o_proj], kind),
            packed_gate_up(mlp.gate_proj, mlp.up_proj, kind),
            packed([mlp.down_proj], kind),
        ]
        self.norms += [_weight(layer.input_layernorm), _weight(layer.post_attention_layernorm)]
        if hasattr(own, "q_norm"):
            self.norms += [_weight(own.q_norm), _weight(own.k_norm)]

    def _rotate_up_to(self, positions: int) -> tuple[Tensor, Tensor]:
        cosine, sine = self._rotary(torch.empty(0), torch.arange(positions)[None])
        return cosine[0].contiguous(), sine[0].contiguous()


def _weight(norm: Any) -> Tensor:
    weight_D: Tensor = norm.weight.detach().float()
    return weight_D


_ALL, _NONE = torch.empty(0, dtype=torch.bool), torch.empty(0)


def family_of(layer: nn.Module) -> type:
    """transformers' class of a decoder layer, which a `Packed` one and a drafter's own layer remember."""
    family: type = getattr(layer, "family", type(layer))
    return family


def linear_of(weight_NK: Tensor) -> nn.Linear:
    """A frozen linear layer on a weight that is there already."""
    linear = nn.Linear(weight_NK.shape[1], weight_NK.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight_NK, requires_grad=False)
    return linear
