import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_cli.attention.sdpa import sdpa
from falcon_cli.attention.view import View
from falcon_cli.tree.shape import ancestors_of, depths_of


def naive(query, key, value, seen_TS, scale):
    """Softmax attention in fp64, head by head."""
    query, key, value = query.double(), key.double(), value.double()
    repeats = query.shape[1] // key.shape[1]
    out = torch.empty_like(query)
    for head in range(query.shape[1]):
        scores_TS = query[0, head] @ key[0, head // repeats].T * scale
        weights_TS = scores_TS.masked_fill(~seen_TS, float("-inf")).softmax(-1)
        out[0, head] = weights_TS @ value[0, head // repeats]
    return out


def seen(committed, depths, ancestors_TT, window):
    """The explicit mask [T, S]."""
    rows = len(depths)
    own_TT = torch.ones(rows, rows).tril().bool() if ancestors_TT is None else ancestors_TT
    seen_TS = torch.cat([torch.ones(rows, committed, dtype=torch.bool), own_TT], dim=-1)
    if window is not None:
        position_T = torch.tensor(depths) + committed
        seen_TS &= position_T[:, None] - torch.cat([torch.arange(committed), position_T]) < window
    return seen_TS


@st.composite
def forwards(draw):
    groups, repeats = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rows, committed = draw(st.integers(1, 10)), draw(st.just(0) | st.integers(1, 20))
    kind = draw(st.sampled_from(["tree", "chain", "prefill"]))
    parents = (0, *(draw(st.integers(0, node - 1)) if kind == "tree" else node - 1 for node in range(1, rows)))
    ancestors_TT = None if kind == "prefill" else ancestors_of(parents)
    window = draw(st.none() | st.integers(1, 25))
    return groups, groups * repeats, draw(st.sampled_from([4, 8])), committed, depths_of(parents), ancestors_TT, window


@settings(max_examples=200)
@given(forwards(), st.integers(0, 9999), st.sampled_from([0.1, 0.5]))
def test_sdpa_equals_naive_attention_with_the_explicit_mask(windowed, forward, seed, scale):
    groups, heads, size, committed, depths, ancestors_TT, window = forward
    generator = torch.Generator().manual_seed(seed)
    rows, slots = len(depths), committed + len(depths)
    query = torch.randn(1, heads, rows, size, generator=generator, dtype=torch.float64) * 2
    key, value = torch.randn(2, 1, groups, slots, size, generator=generator, dtype=torch.float64)
    view = View(committed, torch.tensor(depths), ancestors_TT)
    out = sdpa(query, key, value, view, scale, windowed(view, torch.float64, window))
    expected = naive(query, key, value, seen(committed, depths, ancestors_TT, window), scale)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)  # fp64 sums in another order


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("committed", [0, 11])
def test_sdpa_works_in_every_dtype(dtype, atol, committed):
    """Tolerance: a few roundings of values of size 1 (bf16 keeps 8 bits, fp16 11, fp32 24)."""
    ancestors_TT = ancestors_of((0, 0, 0, 1, 1, 2))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 6, 8, generator=generator).to(dtype)
    key, value = torch.randn(2, 1, 2, committed + 6, 8, generator=generator).to(dtype)
    view = View(committed, torch.tensor([0, 1, 1, 2, 2, 2]), ancestors_TT)
    out = sdpa(query, key, value, view, 0.35, None)
    assert out.dtype == dtype
    expected = naive(query, key, value, seen(committed, [0, 1, 1, 2, 2, 2], ancestors_TT, None), 0.35)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_models_own_mask_stands_for_the_views(heads):
    """Boolean or additive, for all heads or each its own."""
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    view = View(6, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    mask_NTS = torch.rand(heads, 3, 9) < 0.6
    mask_NTS[..., 0] = True
    out = sdpa(query, key, value, view, 0.3, mask_NTS)
    for head in range(4):
        alone = slice(head, head + 1), slice(head // 2, head // 2 + 1)
        seen_TS = mask_NTS[head % heads if heads > 1 else 0]
        expected = naive(query[:, alone[0]], key[:, alone[1]], value[:, alone[1]], seen_TS, 0.3)
        torch.testing.assert_close(out[:, alone[0]].double(), expected, rtol=1e-5, atol=1e-6)
    additive = torch.zeros(heads, 3, 9).masked_fill(~mask_NTS, float("-inf"))
    torch.testing.assert_close(sdpa(query, key, value, view, 0.3, additive), out)


def test_values_may_be_of_another_size_than_keys():
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 5)
    view = View(6, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    whole = sdpa(query, key, torch.cat([value, value[..., :3]], -1), view, 0.3, None)
    torch.testing.assert_close(sdpa(query, key, value, view, 0.3, None), whole[..., :5])
