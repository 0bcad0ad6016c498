"""The networks that falcon converts tensor by tensor: what their keys are called in transformers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from falcon_cli.target.gguf.file import GgufFile

_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
_RMS, _NORM = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
Extra = Callable[[GgufFile, dict[str, Any]], dict[str, Any]]
"""Further entries of a configuration, from the file and what is known so far."""


@dataclass(frozen=True)
class Architecture:
    """How one of llama.cpp's architectures is described to transformers."""

    model_type: str
    """transformers' name."""
    names: dict[str, str]
    """Key of the architecture → entry of the configuration."""
    processor: str = ""
    """Whose tensor processor of transformers undoes llama.cpp's changes (a key of TENSOR_PROCESSORS)."""
    head_dim: bool = True
    """The configuration has a size of heads of its own."""
    partial: bool = False
    """It may turn only the first part of a head."""
    reads: frozenset[str] = field(default_factory=frozenset)
    """Further keys, which `extra` reads."""
    extra: Extra = lambda file, known: {}

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {**_SIZES, **self.names})


def _llama(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
    """Biases where the file has them; a window makes it a Mistral, the same network with a window."""
    window = file.own("attention.sliding_window", 0)
    biases = {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}
    return {"model_type": "mistral", "sliding_window": window} if window else biases


def _granite(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
    if file.own("rope.scaling.finetuned", True) is False:
        raise file.refusal("granite.rope.scaling.finetuned is False: falcon knows no granite without positions")
    usual = (known["hidden_size"] // known["num_attention_heads"]) ** -0.5
    biased = "blk.0.attn_q.bias" in file.tensors
    return {"attention_bias": biased, **({} if "attention_multiplier" in known else {"attention_multiplier": usual})}


def _window(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
    return {"sliding_window": file.own("attention.sliding_window") or None}


def _phi3(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
    if known["rope_parameters"]["rope_type"] not in ("default", "longrope"):
        raise file.refusal(
            f"phi3.rope.scaling.type is {file.own('rope.scaling.type')}: transformers knows only longrope"
        )
    original = file.own("rope.scaling.original_context_length", known["max_position_embeddings"])
    return {**_window(file, known), "original_max_position_embeddings": original}


def _stablelm(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
    parallel = file.own("use_parallel_residual", "blk.0.ffn_norm.weight" not in file.tensors)
    return {"use_qkv_bias": "blk.0.attn_q.bias" in file.tensors, "use_parallel_residual": parallel}


def _gemma(largest: int, every: int) -> Extra:
    """Windows by layers, and the scale of attention, of which the largest model's has another rule.

    Args:
        largest: Layers of the largest model.
        every: Each `every`-th layer has no window, where the file does not say.
    """

    def extra(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
        layers, pattern = known["num_hidden_layers"], file.own("attention.sliding_window_pattern", every)
        if not isinstance(pattern, list):
            pattern = [(layer + 1) % pattern != 0 for layer in range(layers)]
        windowed = file.own("attention.sliding_window", 0) > 0
        whole = known["hidden_size"] // known["num_attention_heads"] if layers == largest else known["head_dim"]
        return {
            "query_pre_attn_scalar": whole,
            "layer_types": ["sliding_attention" if slides and windowed else "full_attention" for slides in pattern],
            "attn_logit_softcapping": file.own("attn_logit_softcapping") or None,
            "final_logit_softcapping": file.own("final_logit_softcapping") or None,
            **({"sliding_window": file.own("attention.sliding_window")} if windowed else {}),
        }

    return extra


def _gemma3(file: GgufFile, known: dict[str, Any]) -> dict[str, Any]:
    """As Gemma 2; its windowed layers have a base of their own, and no scaling."""
    windowed = {"rope_type": "default", "rope_theta": float(file.own("rope.freq_base_swa", 10000.0))}
    both = {"sliding_attention": windowed, "full_attention": known["rope_parameters"]}
    return {**_gemma(62, 6)(file, known), "rope_parameters": both}


_EXPERTS = {
    _RMS: "rms_norm_eps",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_SLIDING = frozenset({"attention.sliding_window"})
_CAPPED = _SLIDING | {"attention.sliding_window_pattern", "attn_logit_softcapping", "final_logit_softcapping"}
ARCHITECTURES = {
    "llama": Architecture("llama", {_RMS: "rms_norm_eps"}, "llama", reads=_SLIDING, extra=_llama),
    "mistral": Architecture("mistral", {_RMS: "rms_norm_eps"}, "llama", reads=_SLIDING, extra=_window),
    "granite": Architecture(
        "granite",
        {
            _RMS: "rms_norm_eps",
            "attention.scale": "attention_multiplier",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "logit_scale": "logits_scaling",
        },
        "llama",
        head_dim=False,
        extra=_granite,
    ),
    "qwen2": Architecture("qwen2", {_RMS: "rms_norm_eps"}, head_dim=False),
    "qwen3": Architecture("qwen3", {_RMS: "rms_norm_eps"}),
    "qwen2moe": Architecture(
        "qwen2_moe",
        {**_EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        "qwen2moe",
        head_dim=False,
    ),
    "qwen3moe": Architecture("qwen3_moe", _EXPERTS, "qwen3moe", extra=lambda file, known: {"norm_topk_prob": True}),
    "phi3": Architecture("phi3", {_RMS: "rms_norm_eps"}, head_dim=False, partial=True, reads=_SLIDING, extra=_phi3),
    "gemma2": Architecture("gemma2", {_RMS: "rms_norm_eps"}, "gemma2", reads=_CAPPED, extra=_gemma(46, 2)),
    "gemma3": Architecture(
        "gemma3_text", {_RMS: "rms_norm_eps"}, "gemma3", reads=_CAPPED | {"rope.freq_base_swa"}, extra=_gemma3
    ),
    "starcoder2": Architecture("starcoder2", {_NORM: "norm_epsilon"}, head_dim=False, reads=_SLIDING, extra=_window),
    "stablelm": Architecture(
        "stablelm",
        {_NORM: "layer_norm_eps"},
        head_dim=False,
        partial=True,
        reads=frozenset({"use_parallel_residual"}),
        extra=_stablelm,
    ),
    "nemotron": Architecture("nemotron", {_NORM: "norm_eps"}, "nemotron", partial=True),
}
"""llama.cpp's architecture → how transformers calls it."""
