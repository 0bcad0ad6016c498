"""A model's parts on the kernels, each in the place of transformers' own and called like it.

Shapes: T rows of a forward, D hidden size, H head size, C uncommitted rows of the cache.
"""

from typing import Any

import torch
from torch import Tensor, nn

from falcon_cli.attention.view import View
from falcon_cli.native.weights import Kind, Matrix, packed, packed_gate_up, product


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


class NativeNorm(nn.Module):
    """An RMS norm over the last dimension."""

    def __init__(self, norm: Any):  # every family has a class of its own
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(norm.weight.detach().float(), False), norm.variance_epsilon

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [..., D], normalised."""
        normed: Tensor = torch.ops.falcon.rms_norm(rows, self.weight, self.epsilon)
        return normed


class NativeLayer(nn.Module):
    """A decoder layer in one operator, whatever the number of rows.

    Args:
        layer: transformers' layer; `swap.FAMILIES` tells which ones.
        kind: How the weights are held.
    """

    def __init__(self, layer: Any, kind: Kind):  # transformers' models are untyped
        super().__init__()
        own, mlp = layer.self_attn, layer.mlp
        self.family, self.index, self.factor = family_of(layer), own.layer_idx, own.scaling
        self.matrices: list[Matrix] = [
            packed([own.q_proj, own.k_proj, own.v_proj], kind),
            packed([own.o_proj], kind),
            packed_gate_up(mlp.gate_proj, mlp.up_proj, kind),
            packed([mlp.down_proj], kind),
        ]
        norms = [layer.input_layernorm, layer.post_attention_layernorm]
        if hasattr(own, "q_norm"):
            norms += [own.q_norm, own.k_norm]
        self.weights = (
            [matrix.data for matrix in self.matrices],
            [matrix.scale_N for matrix in self.matrices],
            [matrix.bias_N for matrix in self.matrices],
            [matrix.outputs for matrix in self.matrices],
            [norm.weight.detach().float() for norm in norms],
        )
        self.epsilon: float = layer.input_layernorm.variance_epsilon

    def forward(
        self,
        hidden_BTD: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Any,
        falcon_view: View,
        context_BLD: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """The rows' outputs [1, T, D]; their keys and values are written behind what the cache holds.

        Given a context, keys and values are made of that (`drafter/layer.py`).
        """
        cache = past_key_values.layers[self.index]
        cosine_TH, sine_TH = position_embeddings
        seen_TC = falcon_view.ancestors_TC
        outputs: Tensor = torch.ops.falcon.decoder_layer(
            hidden_BTD,
            _NONE if context_BLD is None else context_BLD.contiguous(),
            *self.weights,
            cosine_TH.contiguous(),
            sine_TH.contiguous(),
            cache.keys,
            cache.values,
            falcon_view.committed,
            _ALL if seen_TC is None else seen_TC.contiguous(),
            self.epsilon,
            self.factor,
        )
        return outputs


def read(decoder: Any, embedded_TD: Tensor, view: View, cache: Any) -> Tensor:
    """A forward of a decoder that is all `NativeLayer`s: features [T, D]."""
    hidden_BTD = embedded_TD[None].float()
    rotary = decoder.rotary_emb(hidden_BTD, view.position_T[None])
    for layer in decoder.layers:
        hidden_BTD = layer.forward(hidden_BTD, position_embeddings=rotary, past_key_values=cache, falcon_view=view)
    features_TD: Tensor = decoder.norm(hidden_BTD)[0]
    return features_TD


_ALL, _NONE = torch.empty(0, dtype=torch.bool), torch.empty(0)


def family_of(layer: nn.Module) -> type:
    """transformers' class of a decoder layer, which a `NativeLayer` and a drafter's own layer remember."""
    family: type = getattr(layer, "family", type(layer))
    return family


def linear_of(weight_NK: Tensor) -> nn.Linear:
    """A frozen linear layer on a weight that is there already."""
    linear = nn.Linear(weight_NK.shape[1], weight_NK.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight_NK, requires_grad=False)
    return linear
