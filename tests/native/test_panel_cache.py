import pytest
import torch
from hypothesis import given

from falcon_cli.errors import FalconError
from falcon_cli.native.panel_cache import PanelCache
from tests.cache_cycles import cycles
from tests.native.panels import in_panels, in_rows

LAYERS, GROUPS, HEAD = 3, 2, 24


def make(capacity=8, limit=200, dtype=torch.float32):
    return PanelCache(LAYERS, GROUPS, HEAD, limit, dtype, capacity)


def write(cache, count, seed):
    """Random rows behind what is committed; returns them as [2, layers, 1, G, T, H]."""
    drawn = torch.randn(2, LAYERS, 1, GROUPS, count, HEAD, generator=torch.Generator().manual_seed(seed))
    drawn = drawn.to(cache.keys.dtype)
    cache.reserve(count)
    panel = torch.ops.falcon.panel()
    for place in range(count):
        slot = cache.length + place
        cache.keys[:, :, slot // panel, :, slot % panel] = drawn[0, :, 0, :, place]
        padded = torch.nn.functional.pad(drawn[1, :, 0, :, place], (0, -HEAD % panel))
        cache.values[..., slot, :] = padded.unflatten(2, (-1, panel))
    return drawn


@given(cycles(30))
def test_committed_rows_are_the_paths_rows_in_order_whatever_the_cycles(drawn):
    cache, kept = make(capacity=2), []
    for seed, (nodes, path) in enumerate(drawn):
        rows = write(cache, nodes, seed)
        kept.append(rows.index_select(-2, torch.tensor(sorted(path), dtype=torch.long)))
        cache.commit(sorted(path))
        assert torch.equal(in_rows(cache), torch.cat(kept, dim=-2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_grows_by_whole_panels_and_stops_at_the_limit(dtype):
    cache, kept, panel = make(capacity=4, limit=75, dtype=dtype), [], torch.ops.falcon.panel()
    for seed in range(5):
        kept.append(write(cache, 15, seed))
        cache.commit(range(15))
        assert cache.keys.shape == (LAYERS, GROUPS, -(-cache.capacity // panel), HEAD, panel)
        assert torch.equal(in_rows(cache), torch.cat(kept, dim=-2))
    assert cache.capacity == 75
    with pytest.raises(FalconError, match="the text needs 76 cache slots, the limit is 75"):
        cache.reserve(1)
    assert cache.keys.dtype == cache.values.dtype == dtype


def test_the_tests_own_panels_are_the_caches():
    cache = make(capacity=64)
    rows = write(cache, 40, 0)
    cache.commit(range(40))
    keys, values = in_panels(rows[:, :, 0])
    panels = keys.shape[2]
    assert torch.equal(keys, cache.keys[:, :, :panels])
    assert torch.equal(values, cache.values[..., : values.shape[-2], :])
