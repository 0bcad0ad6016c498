import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from falcon_cli.errors import FalconError
from falcon_cli.kv_cache import StaticCache, cache_argument

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


@given(
    st.lists(
        st.integers(1, 9).flatmap(lambda nodes: st.tuples(st.just(nodes), st.sets(st.integers(0, nodes - 1)))),
        max_size=6,
    )
)
def test_committed_rows_are_the_paths_rows_in_order_whatever_the_cycles(cycles):
    cache, kept = make(capacity=2), []
    for seed, (nodes, path) in enumerate(cycles):
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
