"""Move a loaded model onto the kernels, layer by layer, so that there is never a second copy of it in memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from falcon_cli.native.layer import NativeDecoder, NativeLinear, family_of
from falcon_cli.native.packed_matrix import WeightFormat
from falcon_cli.native.quantized import QuantizedLinear
from falcon_cli.native.weights import suits

FAMILIES = {"Llama", "Mistral", "Qwen2", "Qwen3"}
"""Families whose models are known to be embedding, decoder layers and norm, and whose layers are known to compute what
the kernels compute: norm, attention with rotary halves, norm, gated SiLU."""


@dataclass(frozen=True)
class NativeLayers:
    """What a model's layers have been swapped for."""

    kind: WeightFormat
    """How the weights are stored."""
    decoder: NativeDecoder | None
    """All layers and the norm in one operator; None where the kernels know only the linear layers."""
    weight_bytes: int
    """How many bytes of weights are read to decode one token."""

    @property
    def exact(self) -> bool:
        """Whether every row of the whole model is independent of its neighbours, bit for bit."""
        return self.decoder is not None


def swap_model(model: Any, format: WeightFormat) -> NativeLayers:
    """Put a causal LM's decoder and LM head on the kernels.

    Layers of other families keep their own attention and norms; only their linear layers are swapped.
    """
    inner, head = model.get_decoder(), model.get_output_embeddings()
    decoder = None
    if suits(head) and suits_decoder(inner):
        decoder = NativeDecoder(inner.layers, inner.norm, inner.rotary_emb, format)
    else:
        swap_inside(getattr(inner, "layers", inner), format)
    if suits(head):
        model.set_output_embeddings(NativeLinear(head, format, keep=True))
    matrices = [module.matrix for module in model.modules() if isinstance(module, NativeLinear)]
    matrices += [] if decoder is None else decoder.matrices
    return NativeLayers(format, decoder, sum(matrix.bytes for matrix in matrices))


def swap_inside(module: nn.Module, format: WeightFormat) -> None:
    """Put every linear layer inside a module on the kernels."""
    for name, child in module.named_children():
        if suits(child):
            assert isinstance(child, nn.Linear | QuantizedLinear)
            setattr(module, name, NativeLinear(child, format))
        else:
            swap_inside(child, format)


def suits_decoder(decoder: Any) -> bool:
    """Whether the kernels compute what a model between embedding and LM head does."""
    if type(decoder).__name__.removesuffix("Model") not in FAMILIES:
        return False
    fixed = getattr(decoder.config, "rope_parameters", None) or {}
    return (
        fixed.get("rope_type", "default") not in ("dynamic", "longrope")  # their angles change with the length
        and all(suits_layer(layer) for layer in decoder.layers)
    )


def suits_layer(layer: Any) -> bool:
    """Whether the kernels compute what a decoder layer does."""
    if family_of(layer).__name__.removesuffix("DecoderLayer") not in FAMILIES:
        return False
    attention, config = layer.self_attn, layer.self_attn.config
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    linears = [*projections, *layer.mlp.children()]
    return (
        config.hidden_act == "silu"
        and attention.head_dim % 8 == 0
        and getattr(attention, "sliding_window", None) is None
        and getattr(config, "sliding_window", None) is None
        and getattr(config, "partial_rotary_factor", None) in (None, 1.0)
        and all(suits(linear) for linear in linears if isinstance(linear, nn.Linear | QuantizedLinear))
        and layer.input_layernorm.weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )
