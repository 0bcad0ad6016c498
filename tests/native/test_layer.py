from copy import deepcopy

import pytest
import torch
from torch import nn

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.reading import reading
from falcon_cli.attention.view import View
from falcon_cli.kv_cache import StaticCache, cache_argument
from falcon_cli.native.layer import NativeDecoder, PackedLayer, family_of, linear_of
from falcon_cli.native.panel_cache import PanelCache
from falcon_cli.native.weights import pack, packed_gate_up
from falcon_cli.tree.shape import ancestors_of, depths_of
from tests.native.panels import in_rows

CPU = torch.device("cpu")
FAMILIES = ("llama-mha", "llama-gqa", "llama-wide-head", "mistral", "qwen2", "qwen3")


def cache_of(model):
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return StaticCache(2, config.num_key_value_heads, size, 64, torch.float64, CPU, capacity=64)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_is_transformers_own_in_double_precision(tiny_model, random_parents, family):
    """A prompt, then a tree behind it: features, keys and values."""
    model = tiny_model(family, 3)
    model.set_attn_implementation(implementation("sdpa"))
    decoder = model.get_decoder()
    copy = deepcopy(decoder).float()
    native = NativeDecoder(copy.layers, copy.norm, copy.rotary_emb, "fp32")
    exact, ours = cache_of(model), native.new_cache(64)
    assert all(isinstance(layer, PackedLayer) for layer in copy.layers)
    generator = torch.Generator().manual_seed(1)
    parents = random_parents(11, generator)
    depths = torch.tensor(depths_of(parents))
    for view in (View(0, torch.arange(9), None), View(9, depths, ancestors_of(tuple(parents)))):
        rows = torch.randn(len(view.depth_T), 32, generator=generator, dtype=torch.float64)
        with reading(view):
            output = decoder(
                inputs_embeds=rows[None], position_ids=view.position_T[None], **{cache_argument(decoder): exact}
            )
        expected = output.last_hidden_state[0]
        given = native(rows.float(), view, ours)
        torch.testing.assert_close(given.double(), expected, rtol=2e-5, atol=2e-5)  # fp32
        exact.commit(range(9))
        ours.commit(range(9))
    torch.testing.assert_close(in_rows(ours).double(), exact.buffer[..., :18, :], rtol=2e-5, atol=2e-5)


def test_rotary_tables_grow_with_the_cache(tiny_model):
    model = tiny_model("llama-gqa", 3, dtype=torch.float32)
    decoder = model.get_decoder()
    native = NativeDecoder(decoder.layers, None, decoder.rotary_emb, "fp32")
    cache, rows = native.new_cache(64, capacity=16), torch.randn(12, 32)
    native(rows, View(0, torch.arange(12), None), cache)
    cache.commit(range(12))
    cache.reserve(12)
    grown = native(rows, View(12, torch.arange(12), None), cache)
    fresh = native.new_cache(64)
    native(rows, View(0, torch.arange(12), None), fresh)
    fresh.commit(range(12))
    assert torch.equal(native(rows, View(12, torch.arange(12), None), fresh), grown)


def test_weights_that_are_rounded_have_a_cache_of_fp16(tiny_model):
    dtypes = {}
    for format in ("fp32", "bf16", "bf16x2", "int8"):
        decoder = tiny_model("llama-gqa", 3, dtype=torch.float32).get_decoder()
        native = NativeDecoder(decoder.layers, None, decoder.rotary_emb, format)
        dtypes[format] = native.new_cache(64).keys.dtype
    rounded = dict.fromkeys(("bf16", "bf16x2", "int8"), torch.float16)
    assert dtypes == {"fp32": torch.float32, **rounded}


def test_the_family_is_remembered(tiny_model):
    decoder = tiny_model("qwen3", dtype=torch.float32).get_decoder()
    family = type(decoder.layers[0])
    NativeDecoder(decoder.layers, decoder.norm, decoder.rotary_emb, "int8")
    assert family_of(decoder.layers[0]) is family


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
    ours = deepcopy(layer).float()
    native = NativeDecoder(nn.ModuleList([ours]), None, decoder.rotary_emb, "fp32")
    generator = torch.Generator().manual_seed(2)
    views = [
        View(0, torch.arange(6), None),
        View(6, torch.tensor([0, 1, 0, 1]), torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()),
    ]
    caches = [StaticCache(1, 2, 8, 64, torch.float64, CPU, capacity=64), native.new_cache(64)]
    for view in views:
        rows = len(view.depth_T)
        start, context = (torch.randn(1, rows, 32, generator=generator, dtype=torch.float64) for _ in range(2))
        expected = layer(
            start,
            context_BLD=context,
            position_embeddings=decoder.rotary_emb(start, view.position_T[None]),
            cache=caches[0],
            falcon_view=view,
        )
        given = native(start[0].float(), view, caches[1], context[0].float())
        torch.testing.assert_close(given.double(), expected[0], rtol=2e-5, atol=2e-5)
        for cache in caches:
            cache.commit(range(rows))
    held = in_rows(caches[1]).double()
    torch.testing.assert_close(held, caches[0].buffer[..., : held.shape[-2], :], rtol=2e-5, atol=2e-5)


def layer_of(**changes):
    """A decoder layer of 4 query heads and 2 groups of size 8, in C++."""
    gate, up = (nn.Linear(32, 48) for _ in range(2))
    parts = {
        "qkv": [pack(torch.ones(64, 32), "fp32").handle],
        "o": pack(torch.ones(32, 32), "fp32").handle,
        "gate_up": packed_gate_up(gate, up, "fp32").handle,
        "down": pack(torch.ones(32, 48), "fp32").handle,
        "input_norm": torch.ones(32),
        "mlp_norm": torch.ones(32),
        "query_norm": None,
        "key_norm": None,
    }
    return torch.classes.falcon.DecoderLayer(*{**parts, **changes}.values())


def forward(layers, final_norm=None, groups=2, size=8):
    cache = PanelCache(len(layers), groups, size, 16, torch.float32)
    tables = [torch.ones(16, size)] * 2
    depths = torch.arange(3)
    decoder = torch.classes.falcon.Decoder(layers, final_norm, 1e-6, 0.3)
    return decoder.forward(torch.ones(3, 32), None, *tables, depths, [cache.keys], [cache.values], [0], [3], [])


def test_a_layer_takes_all_that_fits():
    norms = {"query_norm": torch.ones(8), "key_norm": torch.ones(8)}
    for layer in (layer_of(), layer_of(**norms)):
        assert forward([layer, layer], torch.ones(32)).shape == (3, 32)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"query_norm": torch.ones(8)}, "a query norm and a key norm, or none"),
        ({"input_norm": torch.ones(40)}, "must be 40 contiguous floats"),
        ({"input_norm": torch.ones(40), "mlp_norm": torch.ones(40)}, "rows of 40 inputs for a matrix of 32"),
        ({"mlp_norm": torch.ones(32).double()}, "must be 32 contiguous floats, not Double"),
    ],
)
def test_a_layer_of_parts_that_do_not_fit_is_refused(changes, told):
    with pytest.raises(RuntimeError, match=told) as error:
        layer_of(**changes)
    assert "\n" not in str(error.value)


def test_a_layer_may_have_several_formats():
    """Queries and keys are int8, values fp32, and what lies behind them bf16 and int4."""
    weight, down = torch.randn(64, 32), torch.randn(32, 48)
    qkv = [pack(weight[:48], "int8").handle, pack(weight[48:], "fp32").handle]
    same = {"gate_up": packed_gate_up(nn.Linear(32, 48), nn.Linear(32, 48), "fp32").handle}
    rounded = {"o": pack(torch.ones(32, 32), "bf16").handle, "down": pack(down, "int4").handle}
    mixed = forward([layer_of(**same, **rounded, qkv=qkv)])
    alike = forward([layer_of(**same, qkv=[pack(weight, "fp32").handle], down=pack(down, "fp32").handle)])
    assert mixed.shape == (3, 32)
    assert (mixed - alike).norm() <= 0.2 * alike.norm()


def test_heads_that_no_matrix_makes_are_refused():
    parts = [pack(torch.ones(outputs, 32), "fp32").handle for outputs in (48, 40)]
    with pytest.raises(RuntimeError, match="7 query heads for 2 groups"):
        forward([layer_of(qkv=parts)])


def test_texts_that_are_not_there_are_refused():
    cache = PanelCache(1, 2, 8, 16, torch.float32)
    decoder = torch.classes.falcon.Decoder([layer_of()], None, 1e-6, 0.3)

    def forward(rows, caches=1, depths=3):
        tables, held = [torch.ones(16, 8)] * 2, ([cache.keys] * caches, [cache.values] * caches)
        return decoder.forward(torch.ones(3, 32), None, *tables, torch.arange(depths), *held, [0] * len(rows), rows, [])

    assert forward([3]).shape == (3, 32)
    for rows, caches in (([3], 2), ([], 0)):
        with pytest.raises(RuntimeError, match="are those of other texts"):
            forward(rows, caches)
    with pytest.raises(RuntimeError, match="rows that are not there"):
        forward([2, 2], 2)
    with pytest.raises(RuntimeError, match="3 rows for 2"):
        forward([1, 1], 2)


def test_layers_that_do_not_fit_the_cache_are_refused():
    with pytest.raises(RuntimeError, match="2 query heads for 3 groups"):
        forward([layer_of()], groups=3)
    with pytest.raises(RuntimeError, match="must be 8 contiguous floats"):
        forward([layer_of(query_norm=torch.ones(16), key_norm=torch.ones(16))])
    with pytest.raises(RuntimeError, match="must be 32 contiguous floats"):
        forward([layer_of()], torch.ones(8))
    with pytest.raises(RuntimeError, match="no layers"):
        forward([])
