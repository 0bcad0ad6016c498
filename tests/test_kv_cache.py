import warnings

import pytest
import torch
from hypothesis import given
from transformers import DynamicCache

from falcon_cli.errors import FalconError
from falcon_cli.kv_cache import RECURRENT, LayerCache, StaticCache, cache_argument
from tests.cache_cycles import cycles

CPU = torch.device("cpu")
LAYERS, GROUPS, HEAD = 3, 2, 4


def make(capacity=8, limit=64):
    return StaticCache(LAYERS, GROUPS, HEAD, limit, torch.float32, CPU, capacity)


def write(cache, rows, seed=0):
    """Write random rows as a model's layers would; returns them as [P, C, 1, G, T, H]."""
    generator = torch.Generator().manual_seed(seed)
    rows_PCBGTH = torch.randn(2, LAYERS, 1, GROUPS, rows, HEAD, generator=generator)
    cache.reserve(rows)
    for index, layer in enumerate(cache.layers):
        keys, values = cache.update(rows_PCBGTH[0, index], rows_PCBGTH[1, index], index)
        assert keys.shape == values.shape == (1, GROUPS, cache.length + rows, HEAD)
        assert torch.equal(keys[..., cache.length :, :], rows_PCBGTH[0, index])
        assert torch.equal(values[..., cache.length :, :], rows_PCBGTH[1, index])
        assert keys.data_ptr() == layer.keys.data_ptr()  # a view, not a copy
    return rows_PCBGTH


def committed(cache):
    return cache.buffer[..., : cache.length, :]


@given(cycles(9))
def test_committed_rows_are_the_paths_rows_in_order_whatever_the_cycles(drawn):
    cache, kept = make(capacity=2), []
    for seed, (nodes, path) in enumerate(drawn):
        rows = write(cache, nodes, seed)
        kept.append(rows.index_select(-2, torch.tensor(sorted(path), dtype=torch.long)))
        cache.commit(sorted(path))
        assert cache.length == sum(part.shape[-2] for part in kept)
        assert torch.equal(committed(cache), torch.cat(kept, dim=-2))


def test_growth_doubles_keeps_the_content_and_stops_at_the_limit():
    cache, kept, capacities = make(capacity=4, limit=21), [], []
    for seed in range(7):
        kept.append(write(cache, 3, seed))
        cache.commit(range(3))
        capacities.append(cache.capacity)
        assert torch.equal(committed(cache), torch.cat(kept, dim=-2))
    assert capacities == [4, 8, 16, 16, 16, 21, 21]


def test_growth_in_one_leap_doubles_as_often_as_needed():
    cache = make(capacity=4, limit=1000)
    cache.reserve(33)
    assert cache.capacity == 64


def test_more_slots_than_the_limit_are_refused_before_anything_changes():
    cache = make(capacity=4, limit=10)
    rows = write(cache, 6)
    cache.commit(range(6))
    with pytest.raises(FalconError, match="the text needs 11 cache slots, the limit is 10"):
        cache.reserve(5)
    cache.reserve(4)
    assert cache.length == 6
    assert torch.equal(committed(cache), rows)


def test_the_first_capacity_never_exceeds_the_limit():
    assert make(capacity=1024, limit=10).capacity == 10


def test_no_reallocation_within_capacity_over_many_cycles():
    cache = make(capacity=64, limit=64)
    where = cache.buffer.data_ptr()
    views = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in cache.layers]
    for cycle in range(25):
        write(cache, 10, cycle)
        cache.commit([0, cycle % 9 + 1])
    assert cache.length == 50
    cache.rewind(0)
    write(cache, 64)
    assert cache.buffer.data_ptr() == where
    assert [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in cache.layers] == views


def test_layers_write_into_the_new_buffer_after_growth_and_old_views_keep_their_content():
    cache = make(capacity=4)
    first = write(cache, 3)
    old_keys, _ = cache.layers[0].keys, cache.commit(range(3))
    second = write(cache, 5, seed=1)
    cache.commit(range(5))
    assert torch.equal(committed(cache), torch.cat([first, second], dim=-2))
    assert torch.equal(old_keys[..., :3, :], first[0, 0])
    for index, layer in enumerate(cache.layers):
        assert layer.keys.data_ptr() == cache.buffer[0, index].data_ptr()
        assert layer.values.data_ptr() == cache.buffer[1, index].data_ptr()


def test_rewind_forgets_the_newest_and_never_remembers_more():
    cache = make()
    rows = write(cache, 6)
    cache.commit(range(6))
    cache.rewind(4)
    cache.rewind(5)
    assert cache.length == 4
    assert torch.equal(committed(cache), rows[..., :4, :])
    again = write(cache, 2, seed=9)
    cache.commit([1])
    assert torch.equal(committed(cache), torch.cat([rows[..., :4, :], again[..., 1:, :]], dim=-2))


def test_transformers_is_told_committed_tokens_and_slots():
    cache = make(limit=64)
    write(cache, 5)
    cache.commit([0, 2, 4])
    assert cache.get_seq_length() == cache.layers[1].get_seq_length() == 3
    assert cache.get_mask_sizes(4, 0) == (7, 0)
    assert cache.layers[0].get_max_length() == 64


def test_the_cache_is_handed_over_under_the_name_that_a_module_knows(tiny_model):
    class Before(torch.nn.Module):
        def forward(self, hidden, past_key_values=None):
            return past_key_values

    class Since(torch.nn.Module):
        def forward(self, hidden, cache=None):
            return cache

    assert (cache_argument(Before()), cache_argument(Since())) == ("past_key_values", "cache")
    decoder = tiny_model().get_decoder()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        decoder(torch.tensor([[1, 2]]), **{cache_argument(decoder): DynamicCache()})


SHAPES = ((2, 4, 6), (1, 8, 8), (3, 4, 2))
"""For each layer kv heads, the size of keys and the size of values."""


def write_layers(cache, rows, seed=0, indexed=(1,)):
    """Write random rows of every layer's own shape, and an indexer's in some; returns all of them in order."""
    generator = torch.Generator().manual_seed(seed)
    cache.reserve(rows)
    written = []
    for index, (groups, *sizes) in enumerate(SHAPES):
        keys, values = (torch.randn(1, groups, rows, size, generator=generator) for size in sizes)
        for held, new in zip(cache.update(keys, values, index), (keys, values), strict=True):
            assert held.shape == (1, groups, cache.length + rows, new.shape[-1])
            assert torch.equal(held[..., cache.length :, :], new)
        written += [keys, values]
        if index in indexed:
            chosen = torch.randn(1, rows, 5, generator=generator)
            assert torch.equal(cache.update_indexer(chosen, index)[:, cache.length :], chosen)
            written.append(chosen)
    return written


def test_layers_of_different_shapes_keep_the_paths_rows_through_growth():
    cache, kept = LayerCache(limit=40, capacity=2), []
    for seed, (nodes, path) in enumerate([(5, [0, 2, 4]), (3, [0]), (9, [0, 1, 5, 8]), (1, [0]), (6, [1, 3, 5])]):
        rows = write_layers(cache, nodes, seed)
        kept.append([tensor[..., path, :] for tensor in rows])
        cache.commit(path)
        for tensor, parts in zip(cache.tensors(), zip(*kept, strict=True), strict=True):
            assert tensor.shape[-2] == cache.capacity
            assert torch.equal(tensor[..., : cache.length, :], torch.cat(parts, dim=-2))
    assert (cache.length, cache.capacity) == (12, 16)
    with pytest.raises(FalconError, match="the text needs 41 cache slots, the limit is 40"):
        cache.reserve(29)


def test_replaced_tensors_are_held_in_their_order():
    cache = LayerCache(limit=8, capacity=8)
    write_layers(cache, 3)
    others = [torch.full_like(tensor, number) for number, tensor in enumerate(cache.tensors())]
    cache.replace(others)
    assert all(held is other for held, other in zip(cache.tensors(), others, strict=True))
    first, second, third = cache.layers
    assert (first.keys.max(), first.values.max(), first.indexer_keys) == (0, 1, None)
    assert (second.keys.max(), second.values.max(), second.indexer_keys.max()) == (2, 3, 4)
    assert (third.keys.max(), third.values.max()) == (5, 6)


def test_layers_that_are_alike_are_told():
    cache = LayerCache(limit=8)
    assert cache.uniform() is None
    rows = torch.zeros(1, GROUPS, 2, HEAD)
    for index in range(LAYERS):
        cache.update(rows, rows, index)
    assert cache.uniform() == (GROUPS, HEAD)
    cache.update_indexer(torch.zeros(1, 2, HEAD), 0)
    assert cache.uniform() is None
    other = LayerCache(limit=8)
    other.update(rows, torch.zeros(1, GROUPS, 2, HEAD + 1), 0)
    assert other.uniform() is None


def test_layers_come_when_they_are_asked_for_and_know_what_is_committed():
    cache = LayerCache(limit=16, capacity=16)
    rows = torch.ones(1, GROUPS, 3, HEAD)
    cache.update(rows, rows, 2)  # the first ones may share another's, and hold nothing
    assert [len(layer.held()) for layer in cache.layers] == [0, 0, 2]
    cache.commit([0, 1])
    assert cache.get_seq_length() == cache.layers[2].get_seq_length() == 2
    assert cache.get_mask_sizes(4, 2) == (6, 0)
    assert cache.layers[2].get_max_length() == 16


@pytest.mark.parametrize(
    "ask",
    ["has_previous_state", "update_conv_state", "update_recurrent_state", "get_conv_state", "get_recurrent_state"],
)
def test_recurrent_states_are_refused(ask):
    with pytest.raises(TypeError, match=f"^{RECURRENT}$"):
        getattr(LayerCache(limit=8), ask)()
