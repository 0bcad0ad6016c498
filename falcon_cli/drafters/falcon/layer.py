"""The drafter's decoder layer: Llama's modules, with queries made of one tensor, keys and values of another.

Shapes: B batch, L positions, D hidden size, N query heads, G kv heads, H head size.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from falcon_cli.native.layer import family_of
from falcon_cli.target.outline import TargetOutline


class DecoderLayer(nn.Module):
    """A decoder layer of a Llama-like class and the target's sizes, uninitialised.

    A sliding window is left out: relaxed causal attention, learned without one, must not meet one when drafting.

    Args:
        kind: The layer's class (Llama-like); remembered as `family`.
        config: A configuration of its own, changed here.
    """

    def __init__(self, kind: Callable[..., nn.Module], config: Any):
        super().__init__()
        config.sliding_window = None
        self.family = kind
        self.kv_shape = kv_shape(config)
        """Key-value heads, and the size of a head."""
        inner: Any = kind(config, layer_idx=0)
        self.self_attn: Any = inner.self_attn
        self.mlp: Any = inner.mlp
        self.input_layernorm: Any = inner.input_layernorm
        self.post_attention_layernorm: Any = inner.post_attention_layernorm

    @torch.no_grad()
    def copy(self, layer: nn.Module, factor: float) -> None:
        """Take a target layer's weights, what it writes into the residual stream made smaller."""
        self.load_state_dict(layer.state_dict())
        self.soften(factor)

    @torch.no_grad()
    def soften(self, factor: float) -> None:
        """Make what the layer writes into the residual stream smaller."""
        for output in (self.self_attn.o_proj, self.mlp.down_proj):
            output.weight.mul_(factor)

    def attend_by(self, implementation: str) -> None:
        """Choose the attention by transformers' name for it."""
        self.self_attn.config._attn_implementation = implementation

    def forward(
        self,
        start_BLD: Tensor,
        context_BLD: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        cache: Any = None,
        wanted_BL: Tensor | None = None,
        **attention: Any,
    ) -> Tensor:
        """The rows' outputs: residual stream and queries from `start_BLD`, keys and values from `context_BLD`.

        Where only the outputs of `wanted_BL` (boolean) are asked for, they come as [M, D], and what follows the
        attention is computed for them alone.
        """
        own = self.self_attn
        asking, asked = self.input_layernorm(start_BLD), self.input_layernorm(context_BLD)
        query, key = _heads(own, "q", asking), _heads(own, "k", asked)
        value = own.v_proj(asked).unflatten(-1, (-1, own.head_dim)).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, 0)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(own.config._attn_implementation, eager_attention_forward)
        seen, _ = attend(own, query, key, value, attention_mask, scaling=own.scaling, dropout=0.0, **attention)
        seen = seen.flatten(-2)
        if wanted_BL is not None:
            start_BLD, seen = start_BLD[wanted_BL], seen[wanted_BL]
        hidden = start_BLD + own.o_proj(seen)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def _heads(own: Any, which: str, rows_BLD: Tensor) -> Tensor:
    """Queries or keys [B, N or G, L, H], with the norm that some families put on them."""
    heads = getattr(own, f"{which}_proj")(rows_BLD).unflatten(-1, (-1, own.head_dim))
    norm = getattr(own, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def layer_for(outline: TargetOutline) -> tuple[DecoderLayer, Any]:
    """A drafter's layer, and its rotary embedding: the target's own where its layers are Llama-like."""
    last = outline.llama_layer
    if last is not None:
        return DecoderLayer(family_of(last), deepcopy(outline.decoder.config)), outline.decoder.rotary_emb
    config = llama_config(outline)
    return DecoderLayer(LlamaDecoderLayer, config), LlamaRotaryEmbedding(config)


def llama_config(outline: TargetOutline) -> LlamaConfig:
    """A Llama layer's configuration of the target's sizes, as far as it has such."""
    hidden = outline.hidden_size
    heads = outline.count("num_attention_heads") or max(1, hidden // 64)
    groups = outline.count("num_key_value_heads") or heads
    size = outline.count("head_dim") or max(2, hidden // heads)
    theta = (getattr(outline.config, "rope_parameters", None) or {}).get("rope_theta")
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=outline.mlp_size,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=heads if heads % groups else groups,
        head_dim=size + size % 2,  # rotary angles turn pairs
        rms_norm_eps=outline.norm.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": theta if isinstance(theta, int | float) else 1e4},
    )


def kv_shape(config: Any) -> tuple[int, int]:
    """Key-value heads of a layer and the size of a head, by a Llama-like model's configuration."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    return groups, getattr(config, "head_dim", None) or config.hidden_size // heads
