"""A model's configuration, shrunk: the same class with the same options, small enough to be built in a blink.

Sizes become a few dozen, layers as many as show every kind, and boundaries (windows, chunks, the length at which rotary
angles change) a few tokens, so that a short text crosses them all. Options stay: scales, caps, biases, norms, kinds of
layers.
"""

from copy import deepcopy
from typing import Any

import torch

MOST_LAYERS = 6
POSITIONS = 128
WINDOW = 7
CHUNK = 8
BOUNDARY = 16
SIZES: tuple[tuple[int, str], ...] = (
    (32, "hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim embedding_dim emb_dim"),
    (32, "attention_hidden_size"),
    (48, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner d_ff d_inner ffn_hidden_size"),
    (24, "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size"),
    (64, "vocab_size vocab_size_per_layer_input"),
    (4, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (32, "index_n_heads"),  # with few of them scores are equal, and a class takes any of equals
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (16, "q_lora_rank kv_lora_rank hidden_size_per_layer_input index_topk"),
    (8, "head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim global_head_dim swa_head_dim swa_v_head_dim"),
    (8, "index_head_dim d_head mamba_n_heads n_mamba_heads mamba_d_head mamba_headdim"),
    (WINDOW, "sliding_window sliding_window_size window_size local_attention keep_window_size"),
    (CHUNK, "attention_chunk_size"),
    (4, "floor_scale log_scaling_n_floor index_block_size block_size"),
    (2, "index_topk_blocks index_local_blocks"),
    (POSITIONS, "max_position_embeddings n_positions n_ctx max_seq_len seq_length max_sequence_length"),
    (BOUNDARY, "original_max_position_embeddings"),
    (2, "num_experts_per_tok moe_topk num_experts_per_token experts_per_token moe_k"),
    (1, "n_group num_expert_group topk_group first_k_dense_replace num_dense_layers"),
)
LAYERS = ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"]
HEADS = ["num_key_value_heads", "num_kv_heads", "multi_query_group_num", "swa_num_key_value_heads"]
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


def random_twin(model: Any) -> tuple[Any, torch.dtype]:
    """A small random model of the same class and options, and the widest dtype that it runs in; None where none can be.

    Norms and biases are random too: norms of 1 and biases of 0 would hide a forgotten one.
    """
    try:
        return made_twin(model)
    except Exception:  # model classes compute sizes as they like, and raise what they like
        return None, torch.float32


def made_twin(model: Any) -> tuple[Any, torch.dtype]:
    """As `random_twin`.

    Raises:
        Exception: Whatever the model's class says of small sizes.
    """
    small = shrunk(model.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = type(model)._from_config(small, dtype=torch.float32, attn_implementation=small._attn_implementation)
        for parameter in twin.parameters():
            if parameter.dim() > 1:
                parameter.data = 0.3 * torch.randn_like(parameter)
            else:
                parameter.data += 0.3 * torch.randn_like(parameter)
    twin.eval().requires_grad_(False)
    try:
        _try(twin.to(torch.float64))
    except Exception:  # an operator that has no such dtype
        _try(twin.to(torch.float32))
        return twin, torch.float32
    return twin, torch.float64


def _try(twin: Any) -> None:
    """Read a few tokens.

    Raises:
        ValueError: Logits that are no numbers.
    """
    with torch.inference_mode():
        if not twin(input_ids=torch.arange(3, 3 + WINDOW)[None]).logits.isfinite().all():
            raise ValueError("random weights give no finite logits")


def shrunk(config: Any) -> Any:
    """A small configuration of the same class.

    Raises:
        ValueError: Its class does not take the small sizes.
    """
    described = deepcopy(config.to_dict())
    for part in (described, *(part for part in described.values() if isinstance(part, dict))):
        _shrink(part)
    described.pop("quantization_config", None)
    try:
        small = type(config).from_dict(described)
    except Exception as error:  # configuration classes check what they like, and raise what they like
        raise ValueError(str(error)) from error
    small._attn_implementation = config._attn_implementation
    return small


def _shrink(described: dict[str, Any]) -> None:
    heads = described.get("num_attention_heads") or described.get("n_head") or described.get("num_heads")
    for size, names in SIZES:
        for name in names.split():
            if name in described:
                described[name] = _least(described[name], size)
    _derive(described)
    for name in HEADS:
        if isinstance(described.get(name), int):
            described[name] = 4 if described[name] == heads else 1 if described[name] == 1 else 2
    if isinstance(described.get("rotary_dim"), int):
        described["rotary_dim"] = 4
    for name in TOKENS:  # of the real vocabulary
        if described.get(name) is not None:
            described[name] = [0] if isinstance(described[name], list) else 0
    _cut_layers(described)
    _shrink_rope(described, head=described.get("head_dim") or 8)


def _derive(described: dict[str, Any]) -> None:
    """Sizes that follow from others."""
    if "expand" in described and "num_heads" in described:
        described["num_heads"] = described["expand"] * described["hidden_size"] // described["head_dim"]
    if "qk_head_dim" in described:
        described["qk_head_dim"] = described["qk_nope_head_dim"] + described["qk_rope_head_dim"]


def _least(value: Any, size: int) -> Any:
    """A size, or sizes layer by layer, at most so large; anything else as it is."""
    if isinstance(value, list):
        return [_least(each, size) for each in value]
    return min(size, value) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else value


def _cut_layers(described: dict[str, Any]) -> None:
    """The first layers that show every kind, two at least."""
    names = [name for name in LAYERS if isinstance(described.get(name), int)]
    if not names:
        return
    layers = described[names[0]]
    kinds = described.get("layer_types") or described.get("block_types") or described.get("layers_block_type")
    kept = min(layers, 2)
    if isinstance(kinds, list) and kinds:
        kept = max(kept, max(kinds.index(kind) for kind in set(kinds)) + 1)
    shared = described.get("num_kv_shared_layers")
    if isinstance(shared, int) and shared > 0:  # the last layers take the keys of earlier ones of their kind
        described["num_kv_shared_layers"], kept = kept, 2 * kept
    kept = min(kept, layers) if isinstance(kinds, list) else min(layers, max(2, _period(described)))
    for name, value in described.items():
        if isinstance(value, list) and len(value) == layers and len(value) > kept:
            described[name] = value[:kept]
    for name in names:
        described[name] = min(kept, described[name])
    each = described.get("per_layer_config")
    if isinstance(each, dict):
        described["per_layer_config"] = {layer: own for layer, own in each.items() if int(layer) < kept}


def _period(described: dict[str, Any]) -> int:
    """Layers after which a pattern repeats, where one is given as a number."""
    names = "sliding_window_pattern no_rope_layer_interval moe_layer_freq decoder_sparse_step attn_layer_period"
    found = [described[name] for name in names.split() if isinstance(described.get(name), int)]
    return min(MOST_LAYERS, max(found, default=2))


def _shrink_rope(described: dict[str, Any], head: int) -> None:
    for name in ("rope_parameters", "rope_scaling"):
        rope = described.get(name)
        for part in [rope, *(rope.values() if isinstance(rope, dict) else ())]:
            if not isinstance(part, dict):
                continue
            if "original_max_position_embeddings" in part:
                part["original_max_position_embeddings"] = BOUNDARY
            turned = part.get("partial_rotary_factor", described.get("partial_rotary_factor") or 1)
            angles = int(head * turned) // 2
            for factors in ("long_factor", "short_factor"):
                if isinstance(part.get(factors), list):
                    part[factors] = part[factors][:angles]
