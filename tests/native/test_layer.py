from copy import deepcopy

import pytest
import torch

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.view import View
from falcon_cli.kv_cache import StaticCache
from falcon_cli.native.layer import NativeLayer, NativeNorm, family_of, linear_of
from falcon_cli.tree.shape import ancestors_of, depths_of

FAMILIES = ("llama-mha", "llama-gqa", "llama-wide-head", "mistral", "qwen2", "qwen3")


def cache_of(model, dtype):
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return StaticCache(2, config.num_key_value_heads, size, 64, dtype, torch.device("cpu"), capacity=64)


def run(layer, model, cache, hidden, view):
    rotary = model.get_decoder().rotary_emb(hidden, view.position_T[None])
    return layer(
        hidden, attention_mask=None, position_embeddings=rotary, past_key_values=cache, falcon_view=view, use_cache=True
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_transformers_own_in_double_precision(tiny_model, random_parents, family):
    """A prompt, then a tree behind it: outputs, keys and values."""
    model = tiny_model(family, 3)
    model.set_attn_implementation(implementation("sdpa"))
    layer = model.get_decoder().layers[1]
    native = NativeLayer(deepcopy(layer).float(), "fp32")
    generator = torch.Generator().manual_seed(1)
    exact, ours = cache_of(model, torch.float64), cache_of(model, torch.float32)
    parents = random_parents(11, generator)
    depths = torch.tensor(depths_of(parents))
    views = [View(0, torch.arange(9), None), View(9, depths, ancestors_of(tuple(parents)))]
    for view in views:
        hidden = torch.randn(1, len(view.depth_T), 32, generator=generator, dtype=torch.float64)
        expected = run(layer, model, exact, hidden, view)
        given = run(native, model, ours, hidden.float(), view)
        torch.testing.assert_close(given.double(), expected, rtol=2e-5, atol=2e-5)  # fp32
        exact.commit(range(9))
        ours.commit(range(9))
    torch.testing.assert_close(ours.buffer_PCBGSH.double(), exact.buffer_PCBGSH, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 17, 64])
def test_attention_is_softmax_in_double_precision(rows):
    generator = torch.Generator().manual_seed(rows)
    heads, groups, size, committed = 6, 2, 24, 13
    keys, values = (torch.randn(1, groups, 90, size, generator=generator) for _ in range(2))
    query = 4 * torch.randn(rows, heads, size, generator=generator)
    seen = torch.rand(rows, rows, generator=generator) < 0.4
    given = torch.ops.falcon.attend(query, keys, values, committed, seen, 0.3)
    whole = torch.cat([torch.ones(rows, committed, dtype=torch.bool), seen], 1)
    wide = [part[0, :, : committed + rows].repeat_interleave(heads // groups, 0).double() for part in (keys, values)]
    scores = (0.3 * query.double().transpose(0, 1) @ wide[0].transpose(1, 2)).masked_fill(~whole, float("-inf"))
    torch.testing.assert_close(given.double(), (scores.softmax(-1) @ wide[1]).transpose(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4])
def test_attention_to_scores_of_any_size(size):
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(1, 1, 50, 16, generator=generator) for _ in range(2))
    query = size * torch.randn(3, 1, 16, generator=generator)
    given = torch.ops.falcon.attend(query, keys, values, 47, torch.eye(3).bool(), 1.0)
    scores = query[:, 0].double() @ keys[0, 0].double().T
    scores[:, 47:] = scores[:, 47:].masked_fill(~torch.eye(3).bool(), float("-inf"))
    expected = scores.softmax(-1) @ values[0, 0].double()
    # a score of size s is known to s · 2⁻²⁴ · 16 in fp32
    torch.testing.assert_close(given[:, 0].double(), expected, rtol=1e-5, atol=1e-5 * max(1.0, size))


def test_norms_are_torchs(tiny_model):
    norm = tiny_model("llama-gqa", 2).get_decoder().norm
    rows = torch.randn(3, 5, 32, dtype=torch.float64)
    native = NativeNorm(deepcopy(norm).float())
    torch.testing.assert_close(native(rows.float()).double(), norm(rows), rtol=1e-6, atol=1e-6)


def test_the_family_is_remembered(tiny_model):
    layer = tiny_model("qwen3").get_decoder().layers[0]
    assert family_of(layer) is family_of(NativeLayer(layer.float(), "int8")) is type(layer)


def test_a_linear_layer_on_a_weight_that_is_there():
    weight = torch.randn(3, 8)
    linear = linear_of(weight)
    assert linear.weight.data_ptr() == weight.data_ptr()
    assert torch.equal(linear(torch.eye(8)), weight.T)


def test_with_a_context_keys_and_values_are_made_of_that(tiny_model, tiny_network):
    """A drafter's layer: the prompt, then two blocks of a tree."""
    decoder = tiny_model("llama-gqa", 3).get_decoder()
    layer = tiny_network(decoder, k=2).layer
    layer.attend_by(implementation("sdpa"))
    native = NativeLayer(deepcopy(layer).float(), "fp32")
    assert native.family is family_of(layer) is type(decoder.layers[0])
    generator, caches = torch.Generator().manual_seed(2), []
    views = [
        View(0, torch.arange(6), None),
        View(6, torch.tensor([0, 1, 0, 1]), torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()),
    ]
    for one, dtype in ((layer, torch.float64), (native, torch.float32)):
        generator.manual_seed(2)
        cache = StaticCache(1, 2, 8, 64, dtype, torch.device("cpu"), capacity=64)
        caches.append([])
        for view in views:
            rows = len(view.depth_T)
            start, context = (torch.randn(1, rows, 32, generator=generator, dtype=torch.float64) for _ in range(2))
            rotary = decoder.rotary_emb(start.to(dtype), view.position_T[None])
            outputs = one(
                start.to(dtype),
                context_BLD=context.to(dtype),
                position_embeddings=rotary,
                past_key_values=cache,
                falcon_view=view,
            )
            cache.commit(range(rows))
            caches[-1].append(outputs.double())
        caches[-1].append(cache.buffer_PCBGSH.double())
    for ours, exact in zip(caches[1], caches[0], strict=True):
        torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-5)
