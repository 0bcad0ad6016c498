"""Positions: a file's model computes what the model does that it was written from."""

import math

import numpy as np
import pytest
import torch
import transformers

from falcon_cli.errors import FalconError
from falcon_cli.target.gguf import converted
from falcon_cli.target.gguf.rope import llama3_factors

WIDE = {"head_dim": 64, "max_position_embeddings": 256}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ODD = {"factor": 5.0, "low_freq_factor": 2.0, "high_freq_factor": 7.0, "original_max_position_embeddings": 96}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
YARN_KEYS = {"scaling.type": "yarn", "scaling.factor": 8.0, "scaling.original_context_length": 32}
SHORT, LONG = np.linspace(1, 3, 32).tolist(), np.linspace(2, 20, 32).tolist()
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.5,
}


def frequencies(base=10000.0, size=64):
    return base ** (-np.arange(0, size, 2) / size)


def factors(how, base=10000.0):
    return {"rope_freqs.weight": llama3_factors(how, frequencies(base))}


CASES = {
    "base": ({"rope_theta": 500000.0}, {"freq_base": 500000.0}, {}),
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"scaling.type": "linear", "scaling.factor": 4.0}, {}),
    "linear without its type": ({"rope_type": "linear", "factor": 4.0}, {"scaling.factor": 4.0}, {}),
    "linear by its old name": ({"rope_type": "linear", "factor": 4.0}, {"scale_linear": 4.0}, {}),
    "none": ({}, {"scaling.type": "none", "scaling.factor": 4.0}, {}),
    "yarn": (YARN, YARN_KEYS, {}),
    "yarn with its own ramp": (
        {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.3},
        {**YARN_KEYS, "scaling.yarn_beta_fast": 16.0, "scaling.yarn_beta_slow": 2.0, "scaling.yarn_attn_factor": 1.3},
        {},
    ),
    "yarn with a factor on attention": (
        {**YARN, "attention_factor": 0.5 * (0.1 * math.log(8) + 1)},
        {**YARN_KEYS, "scaling.attn_factor": 0.5},
        {},
    ),
    "llama 3": (
        {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3},
        {"freq_base": 500000.0},
        factors(LLAMA3, 500000.0),
    ),
    "llama 3 of other sizes": ({"rope_type": "llama3", **ODD}, {}, factors(ODD)),
    "even factors": ({"rope_type": "linear", "factor": 3.0}, {}, {"rope_freqs.weight": [3.0] * 32}),
    "factors of 1": ({}, {}, {"rope_freqs.weight": [1.0] * 32}),
    "long and short": (
        LONGROPE,
        {"scaling.type": "longrope", "scaling.original_context_length": 64, "scaling.attn_factor": 1.5},
        {"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG},
    ),
}


@pytest.fixture
def llama(tiny_model):
    """A Llama with heads of 64 and these rotary positions."""
    return lambda rope: tiny_model(dtype=torch.float32, rope_parameters={"rope_type": "default", **rope}, **WIDE)


def file_of(write_gguf, tmp_path, model, keys, tensors):
    return write_gguf(
        tmp_path / "tiny.gguf", model, "llama", {f"llama.rope.{k}": v for k, v in keys.items()}, tensors=tensors
    )


@pytest.mark.parametrize("case", CASES)
def test_positions_are_the_models_own(case, llama, write_gguf, loaded, logits_of, tmp_path):
    rope, keys, tensors = CASES[case]
    model = llama({"rope_theta": 10000.0, **rope})
    expected = logits_of(model)
    path = file_of(write_gguf, tmp_path, model, keys, tensors)
    torch.testing.assert_close(logits_of(loaded(path)), expected, rtol=0, atol=2e-4)  # fp32, and factors in fp32
    if rope:  # and the case would show if they were not
        assert (logits_of(llama({"rope_theta": 10000.0})) - expected).abs().max() > 0.01


def test_the_long_factors_serve_beyond_the_original_context(llama, write_gguf, loaded, tmp_path):
    rope, keys, tensors = CASES["long and short"]
    model = llama({"rope_theta": 10000.0, **rope})
    text = torch.arange(100)[None] % 48
    with torch.inference_mode():
        found = loaded(file_of(write_gguf, tmp_path, model, keys, tensors))(text).logits
        torch.testing.assert_close(found, model(text).logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("keys", "tensors", "named"),
    [
        ({"dimension_count": 32}, {}, r"llama\.rope\.dimension_count is 32: heads have 64"),
        ({"scaling.type": "longrope"}, {}, r"llama\.rope\.scaling\.type is longrope"),
        ({"scaling.type": "spiral"}, {}, r"llama\.rope\.scaling\.type is spiral"),
        (
            {"scaling.type": "linear", "scaling.factor": 2.0},
            factors(LLAMA3),
            r"rope_freqs\.weight beside .* linear",
        ),
        ({"scaling.attn_factor": 1.5}, {}, r"llama\.rope\.scaling\.attn_factor is 1\.5"),
        ({"scaling.yarn_beta_fast": 1.5}, {}, r"llama\.rope\.scaling\.yarn_beta_fast is 1\.5"),
        ({**YARN_KEYS, "scaling.yarn_ext_factor": 0.5}, {}, r"llama\.rope\.scaling\.yarn_ext_factor is 0\.5"),
        ({**YARN_KEYS, "scaling.yarn_log_multiplier": 0.1}, {}, r"llama\.rope\.scaling\.yarn_log_multiplier is 0\.1"),
        ({"scaling.alpha": 3.0}, {}, r"llama\.rope\.scaling\.alpha is 3"),
        ({"freq_base_swa": 3.0}, {}, r"llama\.rope\.freq_base_swa is 3"),
        ({"dimension_sections": [8, 8, 8, 8]}, {}, r"llama\.rope\.dimension_sections is \[8"),
        ({}, {"rope_freqs.weight": np.linspace(1, 40, 32) ** 2}, r"rope_freqs\.weight: its factors are not"),
        ({}, {"rope_freqs.weight": [1.0] * 16}, r"rope_freqs\.weight: its factors are not"),
        ({}, {"rope_factors_long.weight": LONG}, r"rope_factors_short\.weight: needed are 32 factors"),
        (
            {},
            {"rope_factors_long.weight": LONG, "rope_factors_short.weight": SHORT[:4]},
            r"rope_factors_short\.weight: needed are 32 factors",
        ),
    ],
)
def test_what_transformers_cannot_compute_is_refused_by_name(keys, tensors, named, llama, write_gguf, tmp_path):
    path = file_of(write_gguf, tmp_path, llama({"rope_theta": 10000.0}), keys, tensors)
    with pytest.raises(FalconError, match=named) as error:
        converted(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [2, 10, 14, 16])
@pytest.mark.parametrize(("family", "theirs"), [("StableLm", "stablelm"), ("Phi3", "phi3"), ("Nemotron", "nemotron")])
def test_a_part_of_each_head_may_turn(size, family, theirs, write_gguf, loaded, logits_of, tmp_path):
    model = small(
        family, rope_parameters={"rope_theta": 5000.0, "rope_type": "default", "partial_rotary_factor": size / 16}
    )
    eps = {"stablelm": {"attention.layer_norm_epsilon": 1e-5}, "nemotron": {"attention.layer_norm_epsilon": 1e-5}}
    keys = {"rope.dimension_count": size, "rope.freq_base": 5000.0, **eps.get(theirs, {})}
    path = write_gguf(tmp_path / "m.gguf", model, theirs, {f"{theirs}.{key}": value for key, value in keys.items()})
    torch.testing.assert_close(logits_of(loaded(path)), logits_of(model), rtol=0, atol=2e-4)


def small(family, **settings):
    sizes = {"vocab_size": 48, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
    }
    config = getattr(transformers, f"{family}Config")(**sizes, **heads, tie_word_embeddings=False, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForCausalLM")(config).eval()
