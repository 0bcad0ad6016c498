"""Each network: a file's model computes what the model does that it was written from."""

import pytest
import torch
import transformers
from gguf import GGMLQuantizationType

from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.gguf import BlockFile, NoBlocksError, converted
from falcon_cli.target.load import load_target

SIZES = {
    "vocab_size": 48,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"head_dim": 32, "sliding_window": 8, "tie_word_embeddings": True}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
SLIDES = ["sliding_attention", "full_attention"]
CASES = {
    "llama": ("Llama", "llama", {"head_dim": 32}, {}),
    "llama, tied": ("Llama", "llama", {"tie_word_embeddings": True}, {}),
    "llama with biases": ("Llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "llama with a window": ("Mistral", "llama", {"sliding_window": 8}, {"attention.sliding_window": 8}),
    "mistral": ("Mistral", "mistral", {"sliding_window": 8, "head_dim": 32}, {"attention.sliding_window": 8}),
    "qwen2": ("Qwen2", "qwen2", {}, {}),
    "qwen3": ("Qwen3", "qwen3", {"head_dim": 32}, {}),
    "qwen3 without a size of heads": ("Qwen3", "qwen3", {"head_dim": 16}, {"attention.key_length": None}),
    "qwen3moe": ("Qwen3Moe", "qwen3moe", {**EXPERTS, "head_dim": 32, "norm_topk_prob": True}, {}),
    "qwen2moe": (
        "Qwen2Moe",
        "qwen2moe",
        {**EXPERTS, "shared_expert_intermediate_size": 40},
        {"expert_shared_feed_forward_length": 40},
    ),
    "granite": (
        "Granite",
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.3},
        {"embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 2.0, "attention.scale": 0.3},
    ),
    "granite's usual attention": (
        "Granite",
        "granite",
        {"logits_scaling": 2.0, "attention_multiplier": 0.25},
        {"logit_scale": 2.0},
    ),
    "phi3": ("Phi3", "phi3", {"sliding_window": 8}, {"attention.sliding_window": 8}),
    "phi3 without a window": ("Phi3", "phi3", {"sliding_window": None}, {"attention.sliding_window": 0}),
    "starcoder2": (
        "Starcoder2",
        "starcoder2",
        {"sliding_window": 8, "norm_epsilon": 0.1, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
        {"attention.sliding_window": 8, "attention.layer_norm_epsilon": 0.1, "rope.freq_base": 5000.0},
    ),
    "stablelm": (
        "StableLm",
        "stablelm",
        {"use_qkv_bias": True, "layer_norm_eps": 0.1, "partial_rotary_factor": 0.5},
        {"attention.layer_norm_epsilon": 0.1, "rope.dimension_count": 8},
    ),
    "nemotron": (
        "Nemotron",
        "nemotron",
        {"norm_eps": 0.1, "partial_rotary_factor": 0.5, "head_dim": 32},
        {"attention.layer_norm_epsilon": 0.1, "rope.dimension_count": 16, "rope.scaling.type": "none"},
    ),
    "gemma2": (
        "Gemma2",
        "gemma2",
        {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 32},
        {"attention.sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3Text",
        "gemma3",
        {**GEMMA, "layer_types": SLIDES, "rope_parameters": GEMMA3_ROPE, "query_pre_attn_scalar": 32},
        {
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": 2,
            "rope.freq_base": 1e6,
            "rope.freq_base_swa": 5000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    "gemma3, layer by layer": (
        "Gemma3Text",
        "gemma3",
        {**GEMMA, "layer_types": SLIDES[::-1], "query_pre_attn_scalar": 32},
        {"attention.sliding_window": 8, "attention.sliding_window_pattern": [False, True], "rope.freq_base": 1e6},
    ),
}


def tiny(family, settings):
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("case", CASES)
def test_a_files_model_is_the_one_it_was_written_from(case, write_gguf, loaded, logits_of, tmp_path):
    family, architecture, settings, keys = CASES[case]
    model = tiny(family, settings)
    path = write_gguf(tmp_path / "m.gguf", model, architecture, {f"{architecture}.{k}": v for k, v in keys.items()})
    found = loaded(path)
    assert type(found) is type(model)
    torch.testing.assert_close(logits_of(found), logits_of(model), rtol=0, atol=5e-4)


CONVERTED = {"qwen2moe", "qwen3moe", "gemma2", "gemma3", "gemma3, layer by layer"}
"""They have experts, or an embedding that scales."""


@pytest.mark.parametrize("case", CASES)
def test_a_file_left_in_its_blocks_is_the_same_model_or_refused(case, write_gguf, loaded, logits_of, tmp_path):
    family, architecture, settings, keys = CASES[case]
    keys = {f"{architecture}.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "m.gguf", tiny(family, settings), architecture, keys, kind=GGMLQuantizationType.F16)
    if case in CONVERTED:
        with pytest.raises(NoBlocksError, match="use --quantize int8"):
            BlockFile(path).model()
    else:
        assert torch.equal(logits_of(BlockFile(path).model()), logits_of(loaded(path)))


@pytest.mark.parametrize("quantize", ["int8", "int4", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_rounded_weights_are_those_of_the_converted_file(case, quantize, write_gguf, tmp_path, monkeypatch):
    family, architecture, settings, keys = CASES[case]
    keys = {f"{architecture}.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "m.gguf", tiny(family, settings), architecture, keys, kind=GGMLQuantizationType.F16)
    recipe, text = TargetRecipe(str(path), device="cpu", quantize=quantize), torch.arange(60) * 7 % 48
    found = load_target(recipe).model.prefill(text)
    folders = [folder.name for folder in (tmp_path / "home" / "models").iterdir() if folder.is_dir()]
    assert any("described" not in name for name in folders) == (case in CONVERTED)

    def refuse(path):
        raise NoBlocksError("no")

    monkeypatch.setattr("falcon_cli.target.load.BlockFile", refuse)
    expected = load_target(recipe).model.prefill(text)
    assert torch.equal(found.logits_TV, expected.logits_TV)
    assert torch.equal(found.features_TD, expected.features_TD)


@pytest.mark.parametrize(
    ("architecture", "keys", "named"),
    [
        ("llama", {"attention.value_length": 8}, r"llama\.attention\.value_length differs"),
        ("llama", {"expert_count": 8}, r"llama\.expert_count is 8"),
        ("llama", {"attention.clamp_kqv": 8.0}, r"llama\.attention\.clamp_kqv is 8"),
        ("llama", {"attention.causal": False}, r"llama\.attention\.causal is False"),
        ("llama", {"logit_scale": 0.5}, r"llama\.logit_scale is 0\.5"),
        ("llama", {"attention.head_count_kv": [2, 1]}, r"llama\.attention\.head_count_kv differs between layers"),
        ("llama", {"embedding_length": None}, r"llama\.embedding_length is missing"),
        ("qwen2", {"attention.sliding_window": 8}, r"qwen2\.attention\.sliding_window is 8"),
        ("qwen2", {"attention.key_length": 32}, r"qwen2\.attention\.key_length is 32: transformers knows only 16"),
        ("granite", {"rope.scaling.finetuned": False}, r"granite\.rope\.scaling\.finetuned is False"),
        ("phi3", {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}, r"phi3\.rope\.scaling\.type is yarn"),
    ],
)
def test_a_key_that_cannot_be_followed_is_refused_by_name(architecture, keys, named, write_gguf, tmp_path):
    family = {"llama": "Llama", "qwen2": "Qwen2", "granite": "Granite", "phi3": "Phi3"}[architecture]
    told = {f"{architecture}.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "m.gguf", tiny(family, {}), architecture, told)
    with pytest.raises(FalconError, match=named) as error:
        converted(path)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "home" / "models").glob("m-*"))


def test_zeros_leave_a_part_out(write_gguf, loaded, logits_of, tmp_path):
    model = tiny("Llama", {})
    zeros = {"expert_count": 0, "expert_used_count": 0, "attention.sliding_window": 0, "logit_scale": 0.0}
    path = write_gguf(tmp_path / "m.gguf", model, keys={f"llama.{key}": value for key, value in zeros.items()})
    torch.testing.assert_close(logits_of(loaded(path)), logits_of(model), rtol=0, atol=5e-4)
