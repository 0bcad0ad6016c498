"""Tiny quantised checkpoints in the layouts that are published."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

SIZES = {"hidden_size": 256, "intermediate_size": 384}
UNEVEN = {"hidden_size": 192, "intermediate_size": 200}
"""Of 128 rows or columns and a part of a block."""


def in_blocks(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """FP8 weights, a scale for each block, and the numbers that they stand for."""
    rows, columns = weight.shape
    scale = torch.empty(-(-rows // block[0]), -(-columns // block[1]))
    stored, numbers = torch.empty_like(weight, dtype=torch.float8_e4m3fn), torch.empty_like(weight)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            part = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scale[i, j] = weight[part].abs().max() / 448
            stored[part] = (weight[part] / scale[i, j]).to(torch.float8_e4m3fn)
            numbers[part] = stored[part].float() * scale[i, j]
    return stored, scale, numbers


def note(folder: Path, **quantisation: Any) -> None:
    """Write a `quantization_config` into a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantisation}))


def rewrite(folder: Path, model: Any, stored: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]) -> None:
    """Save a model with its layers' matrices stored otherwise, and put into it the numbers that they stand for."""
    from safetensors.torch import save_file

    model.save_pretrained(folder)
    tensors = {}
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight"):
            parts, parameter.data = stored(parameter.data)
            tensors.update({name.removesuffix("weight") + part: tensor for part, tensor in parts.items()})
        else:
            tensors[name] = parameter.data
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def by_output(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """FP8 weights with a scale for each row."""
    return in_blocks(weight, (1, weight.shape[1]))


def as_one(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """FP8 weights with one scale."""
    stored, scale, numbers = in_blocks(weight, (weight.shape[0], weight.shape[1]))
    return stored, scale.reshape(()), numbers


LAYOUTS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], str, dict[str, Any]]] = {
    "deepseek": (
        lambda weight: in_blocks(weight, (128, 128)),
        "weight_scale_inv",
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]},
    ),
    "vllm": (
        as_one,
        "weight_scale",
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
    ),
    "fbgemm": (
        by_output,
        "weight_scale",
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
    ),
}


@pytest.fixture
def written_note(saved_model: Path) -> Callable[..., Path]:
    """Give a tiny plain model a `quantization_config`; returns its folder."""

    def write(**quantisation: Any) -> Path:
        note(saved_model, **quantisation)
        return saved_model

    return write


@pytest.fixture
def fp8_model(saved_model: Path, tiny_model: Callable[..., Any]) -> Callable[..., tuple[Path, Any]]:
    """Write a tiny Llama in a layout of FP8; returns its folder, and a model of the numbers that it holds."""

    def write(layout: str = "deepseek", uneven: bool = False) -> tuple[Path, Any]:
        model = tiny_model(dtype=torch.float32, **(UNEVEN if uneven else SIZES))
        halve, scale_name, told = LAYOUTS[layout]

        def stored(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            fp8, scale, numbers = halve(weight)
            inputs = {"input_scale": torch.tensor(0.5)} if layout == "vllm" else {}
            return {"weight": fp8, scale_name: scale, **inputs}, numbers

        rewrite(saved_model, model, stored)
        note(saved_model, **told)
        return saved_model, model

    return write


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def in_mxfp4(numbers: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random 4-bit weights of experts: blocks [E, R, C/32, 16], scales [E, R, C/32], and their numbers [E, C, R]."""
    codes = torch.randint(0, 16, (numbers, rows, columns // 32, 32), dtype=torch.uint8)
    scales = torch.randint(122, 126, (numbers, rows, columns // 32), dtype=torch.uint8)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    stood_for = torch.tensor(E2M1)[codes.long()] * torch.exp2(scales.float() - 127)[..., None]
    return blocks, scales, stood_for.flatten(2).transpose(1, 2).contiguous()


@pytest.fixture
def mxfp4_model(saved_model: Path) -> tuple[Path, Any]:
    """A tiny gpt-oss with its experts in MXFP4, and a model of the numbers that they hold."""
    from safetensors.torch import save_file
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_attention_heads": 4}
    fewer = {"num_key_value_heads": 2, "num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    ends = {"vocab_size": 48, "sliding_window": 8, "pad_token_id": 0, "eos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GptOssForCausalLM(GptOssConfig(**sizes, **fewer, **ends, initializer_range=0.3)).float()
        model.save_pretrained(saved_model)
        tensors = {}
        for name, parameter in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                experts, columns, rows = parameter.shape
                blocks, scales, parameter.data = in_mxfp4(experts, rows, columns)
                tensors.update({f"{name}_blocks": blocks, f"{name}_scales": scales})
            else:
                tensors[name] = parameter.data
    save_file(tensors, saved_model / "model.safetensors", {"format": "pt"})
    note(saved_model, quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])
    return saved_model, model.eval()


@pytest.fixture
def bitnet_model(saved_model: Path, tiny_model: Callable[..., Any]) -> Iterator[Path]:
    """A tiny Llama of weights -1, 0 and 1, which transformers has no way to dequantise."""
    from transformers.integrations.bitnet import pack_weights

    def stored(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = 1 / weight.abs().mean()
        ternary = (weight * scale).round().clamp(-1, 1)
        return {"weight": pack_weights(ternary.clone()), "weight_scale": scale.reshape(1)}, ternary / scale

    with torch.compiler.set_stance("force_eager"):  # BitNet's layers would be compiled, which takes a while
        rewrite(saved_model, tiny_model(dtype=torch.float32), stored)
        note(saved_model, quant_method="bitnet", modules_to_not_convert=["lm_head"])
        yield saved_model
