"""FlexAttention with a tree's mask, uncompiled on the CPU, against dense attention."""

import pytest
import torch

from falcon_cli.attention.flex import flex
from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import View
from falcon_cli.tree.shape import ancestors_of

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")


def drawn(slots, rows, heads, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (1, heads, rows, 16), (1, groups, slots, 16), (1, groups, slots, 16)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
@pytest.mark.parametrize(("committed", "rows"), [(0, 1), (0, 6), (1, 1), (40, 1), (3, 12), (130, 25)])
def test_trees_equal_dense_attention(heads, groups, committed, rows, random_parents):
    parents = random_parents(rows, torch.Generator().manual_seed(rows))
    view = View(committed, torch.arange(rows), ancestors_of(tuple(parents)))
    parts = drawn(committed + rows, rows, heads, groups)
    torch.testing.assert_close(flex(*parts, view, 0.25, None), sdpa(*parts, view, 0.25, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("committed", [0, 20])
def test_chains_are_causal(committed):
    parts, view = drawn(committed + 7, 7, 4, 2), View(committed, torch.arange(7), None)
    torch.testing.assert_close(flex(*parts, view, 0.25, None), sdpa(*parts, view, 0.25, None), rtol=1e-5, atol=1e-5)


def test_rows_of_earlier_passes_are_seen_as_the_mask_says():
    depths = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3])
    view = View(20, depths[5:], ancestors_of((0, 0, 0, 1, 1, 2, 3, 3, 5))[5:], depths[:5])
    parts = drawn(29, 4, 6, 2)
    torch.testing.assert_close(flex(*parts, view, 0.25, None), sdpa(*parts, view, 0.25, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [6, 100])
def test_a_sliding_window_is_respected(windowed, window):
    parts, view = drawn(25, 5, 4, 2), View(20, torch.arange(5), None)
    mask = windowed(view, parts[0].dtype, window)
    given = flex(*parts, view, 0.25, mask)
    torch.testing.assert_close(given, sdpa(*parts, view, 0.25, mask), rtol=1e-5, atol=1e-5)
