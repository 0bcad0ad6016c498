import pytest
import torch
from transformers import CONFIG_MAPPING

from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import BOUNDARY, CHUNK, POSITIONS, WINDOW, made_twin, random_twin, shrunk


def small(family, **changes):
    return shrunk(CONFIG_MAPPING[family](**changes))


def test_sizes_are_a_few_dozen_and_the_configuration_is_left_alone():
    config = CONFIG_MAPPING["llama"]()
    found = shrunk(config)
    sizes = (found.hidden_size, found.intermediate_size, found.vocab_size, found.num_hidden_layers, found.head_dim)
    assert sizes == (32, 48, 64, 2, 8)
    assert (config.hidden_size, config.vocab_size, found.max_position_embeddings) == (4096, 32000, POSITIONS)
    assert type(found) is type(config)


@pytest.mark.parametrize(("groups", "expected"), [(32, 4), (8, 2), (1, 1)])
def test_heads_are_grouped_as_before(groups, expected):
    found = small("llama", num_key_value_heads=groups)
    assert (found.num_attention_heads, found.num_key_value_heads) == (4, expected)


def test_options_stay():
    found = small("granite", embedding_multiplier=12.0, residual_multiplier=0.22, attention_bias=True)
    assert (found.embedding_multiplier, found.residual_multiplier, found.attention_bias) == (12.0, 0.22, True)
    found = small("gemma2")
    assert (found.attn_logit_softcapping, found.final_logit_softcapping, found.query_pre_attn_scalar) == (50, 30, 256)


def test_boundaries_come_within_a_short_text():
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 4096}
    assert small("mistral").sliding_window == WINDOW
    assert small("llama4_text").attention_chunk_size == CHUNK
    assert small("llama4_text").floor_scale == 4
    assert small("llama", rope_parameters=yarn).rope_parameters["original_max_position_embeddings"] == BOUNDARY


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss", "cohere2", "gemma4_text", "llama4_text"])
def test_every_kind_of_layer_is_shown(family):
    assert set(small(family).layer_types) == set(CONFIG_MAPPING[family]().layer_types)


def test_a_layer_without_a_window_and_layers_that_share_keys_are_among_few():
    assert small("gemma3_text").num_hidden_layers == 6
    found = small("gemma3n_text")
    assert (found.num_hidden_layers, found.num_kv_shared_layers) == (10, 5)


def test_tokens_of_the_real_vocabulary_become_one_of_the_small():
    found = small("llama", pad_token_id=31_999, eos_token_id=[7, 30_000])
    assert (found.pad_token_id, found.eos_token_id) == (0, [0])


def test_a_quantised_model_is_shrunk_to_an_ordinary_one():
    config = CONFIG_MAPPING["llama"]()
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert not hasattr(shrunk(config), "quantization_config")


@pytest.mark.parametrize(("family", "dtype"), [("llama", torch.float64), ("gpt_oss", torch.float32)])
def test_a_twin_runs_in_the_widest_dtype_that_its_class_knows(family, dtype):
    model = built(family)
    twin, found = random_twin(model)
    assert (type(twin), found, twin.dtype) == (type(model), dtype, dtype)


def test_nothing_of_a_twin_is_one_or_zero_and_it_is_the_same_each_time():
    torch.manual_seed(5)
    following = torch.Generator().manual_seed(5)
    model = built("qwen2")
    (one, _), (other, _) = random_twin(model), random_twin(model)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name])
        assert parameter.std() > 0.1, name
    assert torch.equal(torch.rand(3), torch.rand(3, generator=following))  # nobody else's dice were thrown


def test_a_class_that_takes_no_small_sizes_has_no_twin():
    model = built("hrm_text")
    assert random_twin(model) == (None, torch.float32)
    with pytest.raises(IndexError, match="list index out of range"):
        made_twin(model)
    with pytest.raises(ValueError, match="must equal num_hidden_layers"):
        small("dory")


def test_sizes_that_follow_from_others_follow():
    found = small("mamba2")
    assert found.num_heads * found.head_dim == found.expand * found.hidden_size
    assert small("longcat_flash").qk_head_dim == 16
