"""The hybrid's maths on the CPU, where torch's own flash kernel stands in for flash-attn's."""

import pytest
import torch

from falcon_cli.attention import flash_hybrid as hybrid
from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import View
from falcon_cli.tree.shape import ancestors_of


def drawn(committed, rows, heads, groups, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    slots, size = committed + rows, 16

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    return normal(1, heads, rows, size), normal(1, groups, slots, size), normal(1, groups, slots, size)


def random_parents(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return (0, *(int(torch.randint(0, node, (1,), generator=generator)) for node in range(1, rows)))


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (9, 3)])
@pytest.mark.parametrize(("committed", "rows"), [(1, 1), (40, 1), (3, 12), (130, 25), (0, 6)])
def test_trees_equal_dense_attention_in_one_piece(heads, groups, committed, rows):
    query, key, value = drawn(committed, rows, heads, groups, torch.float64)
    parents = random_parents(rows, seed=rows)
    depth_T = torch.arange(rows)
    view = View(committed, depth_T, ancestors_of(parents))
    whole = sdpa(query, key, value, view, 0.25, None)
    torch.testing.assert_close(hybrid.flash_hybrid(query, key, value, view, 0.25, None), whole, rtol=1e-10, atol=1e-12)


def test_chains_after_a_prefix_are_causal():
    query, key, value = drawn(20, 7, 4, 2, torch.float64)
    view = View(20, torch.arange(7), None)
    whole = sdpa(query, key, value, view, 0.25, None)
    torch.testing.assert_close(hybrid.flash_hybrid(query, key, value, view, 0.25, None), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window", [None, 12])
def test_rows_of_earlier_passes_equal_dense_attention(windowed, window):
    query, key, value = drawn(20, 9, 6, 2, torch.float64)
    query = query[:, :, 5:]
    parents = (0, 0, 0, 1, 1, 2, 3, 3, 5)
    depths = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3])
    view = View(20, depths[5:], ancestors_of(parents)[5:], depths[:5])
    mask = windowed(view, torch.float64, window)
    whole = sdpa(query, key, value, view, 0.25, mask)
    torch.testing.assert_close(hybrid.flash_hybrid(query, key, value, view, 0.25, mask), whole, rtol=1e-10, atol=1e-12)
    every = View(20, depths, ancestors_of(parents))
    at_once = sdpa(
        drawn(20, 9, 6, 2, torch.float64)[0], key, value, every, 0.25, windowed(every, torch.float64, window)
    )
    torch.testing.assert_close(whole, at_once[:, :, 5:], rtol=1e-10, atol=1e-12)


def test_a_sliding_window_is_respected(windowed):
    query, key, value = drawn(20, 5, 4, 2, torch.float64)
    view = View(20, torch.arange(5), None)
    mask = windowed(view, query.dtype, 6)
    whole = sdpa(query, key, value, view, 0.25, mask)
    torch.testing.assert_close(hybrid.flash_hybrid(query, key, value, view, 0.25, mask), whole)


def test_bf16_is_as_near_the_exact_result_as_dense_bf16_attention():
    exact_parts = drawn(64, 10, 6, 2, torch.float64)
    query, key, value = (part.bfloat16() for part in exact_parts)
    view = View(64, torch.arange(10), ancestors_of(random_parents(10, 1)))
    exact = sdpa(query.double(), key.double(), value.double(), view, 0.25, None)
    error = (hybrid.flash_hybrid(query, key, value, view, 0.25, None).double() - exact).abs().max()
    assert error <= 2 * (sdpa(query, key, value, view, 0.25, None).double() - exact).abs().max() + 1e-3


def test_the_prefix_goes_to_the_flash_kernel_and_only_the_corner_is_dense(monkeypatch):
    seen = []
    monkeypatch.setattr(hybrid, "prefix_part", lambda q, k, v, s: seen.append(k.shape[2]) or real(q, k, v, s))
    query, key, value = drawn(30, 4, 4, 2, torch.float64)
    hybrid.flash_hybrid(query, key, value, View(30, torch.arange(4), None), 0.25, None)
    assert seen == [30]


real = hybrid.prefix_part


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with flash-attn")
def test_flash_attn_on_a_gpu_equals_dense_attention():
    pytest.importorskip("flash_attn")
    query, key, value = (part.cuda() for part in drawn(300, 24, 8, 2, torch.bfloat16))
    view = View(300, torch.arange(24, device="cuda"), ancestors_of(random_parents(24, 2)).cuda())
    whole = sdpa(query, key, value, view, 0.25, None)
    torch.testing.assert_close(hybrid.flash_hybrid(query, key, value, view, 0.25, None), whole, rtol=2e-2, atol=2e-2)
