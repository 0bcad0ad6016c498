"""A loaded model moves onto the kernels, layer by layer, so that no second copy of it is ever held."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from falcon_cli.native.layer import NativeLayer, NativeLinear, NativeNorm, family_of
from falcon_cli.native.weights import Kind, suits

FAMILIES = {"Llama", "Mistral", "Qwen2", "Qwen3"}
"""Whose models are known to be embedding, decoder layers, norm, and whose layers are known to compute what the kernels
do: norm, attention with rotary halves, norm, gated SiLU."""


@dataclass(frozen=True)
class Engine:
    """What a model's layers have been swapped for."""

    kind: Kind
    """How the weights are held."""
    exact: bool
    """Whether every row of the whole model is independent of its neighbours, bit for bit."""
    weight_bytes: int
    """Read to decode one token."""


def swap_model(model: Any, kind: Kind) -> Engine:
    """Put a causal LM's decoder and LM head on the kernels.

    Layers of another make keep their own attention and norms; only their linear layers are swapped.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    family = type(decoder).__name__.removesuffix("Model")
    known = family in FAMILIES and suits(head) and all(_known(layer) for layer in decoder.layers)
    swap_inside(decoder.layers, kind)
    if known:
        decoder.norm = NativeNorm(decoder.norm)
    if suits(head):
        model.set_output_embeddings(NativeLinear(head, kind, keep=True))
    matrices = [module.matrices for module in model.modules() if isinstance(module, NativeLayer)]
    matrices += [[module.matrix] for module in model.modules() if isinstance(module, NativeLinear)]
    return Engine(kind, known, sum(matrix.bytes for group in matrices for matrix in group))


def swap_inside(module: nn.Module, kind: Kind) -> None:
    """Put every known decoder layer, and every other linear layer, inside a module on the kernels."""
    for name, child in module.named_children():
        if _known(child):
            setattr(module, name, NativeLayer(child, kind))
        elif suits(child):
            assert isinstance(child, nn.Linear)
            setattr(module, name, NativeLinear(child, kind))
        else:
            swap_inside(child, kind)


def _known(layer: Any) -> bool:
    if family_of(layer).__name__.removesuffix("DecoderLayer") not in FAMILIES:
        return False
    own, config = layer.self_attn, layer.self_attn.config
    linears = [own.q_proj, own.k_proj, own.v_proj, own.o_proj, *layer.mlp.children()]
    return (
        config.hidden_act == "silu"
        and own.head_dim % 8 == 0
        and getattr(own, "sliding_window", None) is None
        and getattr(config, "sliding_window", None) is None
        and getattr(config, "partial_rotary_factor", None) in (None, 1.0)
        and all(suits(linear) for linear in linears if isinstance(linear, nn.Linear))
        and layer.input_layernorm.weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )
