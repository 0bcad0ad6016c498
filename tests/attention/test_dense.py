import pytest
import torch

from falcon_cli.attention.dense import dense

GROUPS = 2


def step_by_step(query, key, value, seen_TS, scale, softcap, sink_N):
    """Attention with capped scores and sinks, head by head."""
    out = torch.empty_like(query)
    for head in range(query.shape[1]):
        scores = query[0, head] @ key[0, head // GROUPS].T * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.masked_fill(~seen_TS, float("-inf")).exp()
        total = weights.sum(-1, keepdim=True) + (0 if sink_N is None else sink_N[head].exp())
        out[0, head] = weights / total @ value[0, head // GROUPS]
    return out


@pytest.mark.parametrize(("softcap", "sinks"), [(None, False), (1.5, False), (None, True), (1.5, True)])
@pytest.mark.parametrize("additive", [False, True])
def test_dense_attention_is_that_of_its_words(softcap, sinks, additive):
    drawn = torch.Generator().manual_seed(1)
    query = torch.randn(1, 4, 3, 8, generator=drawn, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, 9, 8, generator=drawn, dtype=torch.float64)
    seen_TS = torch.rand(3, 9, generator=drawn) < 0.7
    seen_TS[:, 0] = True
    sink_N = torch.randn(4, generator=drawn, dtype=torch.float64) if sinks else None
    mask = torch.zeros(1, 3, 9, dtype=torch.float64).masked_fill(~seen_TS, float("-inf")) if additive else seen_TS[None]
    out = dense(query, key, value, mask, 0.4, softcap, sink_N)
    torch.testing.assert_close(out, step_by_step(query, key, value, seen_TS, 0.4, softcap, sink_N))


def test_half_precision_is_summed_in_fp32():
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    half = [part.bfloat16() for part in (query, key, value)]
    out = dense(*half, None, 0.4, 2.0, None)
    assert out.dtype == torch.bfloat16
    exact = dense(*(part.double() for part in half), None, 0.4, 2.0, None)
    torch.testing.assert_close(out.double(), exact, rtol=0.01, atol=0.01)
