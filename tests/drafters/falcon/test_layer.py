"""The drafter's decoder layer: the target's own when both inputs are the same."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from falcon_cli.drafters.falcon.layer import DecoderLayer, layer_for
from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import TargetOutline


def test_from_one_tensor_it_is_the_target_s_layer(family, tiny_model):
    decoder = tiny_model(family).get_decoder()
    theirs = decoder.layers[0]
    ours = DecoderLayer(type(theirs), type(decoder.config)(**decoder.config.to_dict())).double()
    ours.copy(theirs, 1.0)
    ours.attend_by("sdpa")
    decoder.config._attn_implementation = "sdpa"
    rows_BLD = torch.randn(1, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotary = decoder.rotary_emb(rows_BLD, torch.arange(5)[None])
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    with torch.no_grad():
        expected = theirs(rows_BLD, attention_mask=mask, position_embeddings=rotary)
        torch.testing.assert_close(ours(rows_BLD, rows_BLD, rotary, attention_mask=mask), expected)


def test_keys_and_values_come_from_the_context_and_the_rest_from_the_start(tiny_model):
    decoder = tiny_model().get_decoder()
    layer = DecoderLayer(type(decoder.layers[0]), type(decoder.config)(**decoder.config.to_dict())).double()
    layer.copy(decoder.layers[0], 0.0)  # writes nothing: what comes out is the start
    layer.attend_by("sdpa")
    start, context = torch.randn(2, 1, 4, 32, dtype=torch.float64)
    rotary = decoder.rotary_emb(start, torch.arange(4)[None])
    with torch.no_grad():
        assert torch.equal(layer(start, context, rotary), start)


def test_a_sliding_window_is_left_out(tiny_model):
    decoder = tiny_model("mistral-window").get_decoder()
    config = type(decoder.config)(**decoder.config.to_dict())
    assert DecoderLayer(type(decoder.layers[0]), config).self_attn.config.sliding_window is None
    assert decoder.config.sliding_window == 7


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_copied_outputs_are_made_smaller(tiny_model, factor):
    decoder = tiny_model().get_decoder()
    theirs = decoder.layers[-1]
    layer = DecoderLayer(type(theirs), type(decoder.config)(**decoder.config.to_dict())).double()
    layer.copy(theirs, factor)
    assert torch.equal(layer.mlp.down_proj.weight, factor * theirs.mlp.down_proj.weight)
    assert torch.equal(layer.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
    assert isinstance(decoder.rotary_emb, LlamaRotaryEmbedding)


@pytest.mark.parametrize("family", ["gemma2", "cohere", "mixtral", "deepseek_v3", "gpt2", "gpt_oss", "phi", "bloom"])
def test_of_any_other_target_it_is_llama_s_of_its_sizes(family):
    target = TargetModel(made_twin(built(family))[0], branches=family == "bloom")
    layer, rotary = layer_for(target.outline)
    assert layer.family is LlamaDecoderLayer
    assert isinstance(rotary, LlamaRotaryEmbedding)
    heads = target.config.num_attention_heads
    groups, size = layer.kv_shape
    assert layer.self_attn.q_proj.weight.shape == (heads * size, 32)
    assert layer.self_attn.k_proj.weight.shape == (groups * size, 32)
    assert heads % groups == 0
    assert layer.mlp.up_proj.weight.shape == (target.outline.mlp_size, 32)
    assert layer.self_attn.config.hidden_act == "silu"


def test_of_a_llama_like_target_it_is_its_own(tiny_model):
    decoder = tiny_model("qwen3").get_decoder()
    layer, rotary = layer_for(TargetOutline.of_decoder(decoder))
    assert layer.family is type(decoder.layers[0])
    assert rotary is decoder.rotary_emb
    assert hasattr(layer.self_attn, "q_norm")
