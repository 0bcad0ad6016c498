"""Tiny GGUF files, as llama.cpp writes them."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

LETTERS = [*(chr(ord("a") + number) for number in range(26)), *(str(digit) for digit in range(10))]
TOKENS = ["<s>", "</s>", *LETTERS, "ab", "abc", "Ġ", "Ċ", *(f"<extra{number}>" for number in range(6))]
KINDS = [3, 3, *[1] * 40, *[3] * 6]
PERMUTED = ("llama", "granite", "mistral")
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Write one entry in the type that its value suggests."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def as_in_file(name: str, weight: torch.Tensor, architecture: str, config: Any) -> torch.Tensor:
    """A weight as llama.cpp's converter writes it."""
    if architecture in PERMUTED and any(part in name for part in ("q_proj", "k_proj")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
    if architecture in ("gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
        return weight + 1
    if architecture == "gpt2" and weight.dim() == 2 and ".h." in name:
        return weight.T
    return weight.squeeze(0) if "shared_expert_gate" in name else weight


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., Path]:
    """Write a model as a GGUF file: `write_gguf(path, model, "llama", {"llama.rope.freq_base": 5e5})`.

    Keys of None leave an entry out; `tensors` are written beside the model's; `kind` is the type of its matrices.
    """

    def write(
        path: Path,
        model: Any,
        architecture: str = "llama",
        keys: dict[str, Any] | None = None,
        without: Collection[str] = (),
        tensors: dict[str, Any] | None = None,
        kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    ) -> Path:
        config = model.config
        writer = gguf.GGUFWriter(path, architecture)
        sizes = {key: getattr(config, entry, None) for key, entry in SIZES.items()}
        told = {f"{architecture}.{key}": value for key, value in sizes.items() if value is not None}
        for key, value in {**told, **tokenizer(), **(keys or {})}.items():
            if value is not None:
                add(writer, key, value)
        for name, weight in named(model, architecture).items():
            if name not in without:
                put(writer, name, weight.numpy(), kind if weight.dim() > 1 else gguf.GGMLQuantizationType.F32)
        for name, values in (tensors or {}).items():
            writer.add_tensor(name, np.asarray(values, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def tokenizer() -> dict[str, Any]:
    """The entries of a byte-level tokenizer of 48 tokens."""
    entries = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": TOKENS,
        "token_type": KINDS,
        "merges": ["a b", "ab c"],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in entries.items()}


def named(model: Any, architecture: str) -> dict[str, torch.Tensor]:
    """The model's weights by llama.cpp's names."""
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds["llama" if architecture == "mistral" else architecture], 4)
    found = {}
    for name, weight in model.state_dict().items():
        if model.config.tie_word_embeddings and name == "lm_head.weight":
            continue
        changed = as_in_file(name, weight, architecture, model.config)
        if "experts.gate_up_proj" in name:
            block = name.split(".")[2]
            gate, up = changed.chunk(2, dim=1)
            found |= {f"blk.{block}.ffn_gate_exps.weight": gate, f"blk.{block}.ffn_up_exps.weight": up}
            continue
        short, _, ending = name.rpartition(".")
        short, ending = (name, "weight") if ending not in ("weight", "bias") else (short, ending)
        found[f"{names.get_name(short)}.{ending}"] = changed
    return {name: weight.contiguous() for name, weight in found.items()}


def put(writer: gguf.GGUFWriter, name: str, weight: Any, kind: gguf.GGMLQuantizationType) -> None:
    """Write a tensor, quantized where its type asks."""
    if kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, weight)
    elif kind == gguf.GGMLQuantizationType.F16:
        writer.add_tensor(name, weight.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
