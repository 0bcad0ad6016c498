import pytest
import torch
from transformers import AttentionInterface

from falcon_cli.attention import backend
from falcon_cli.attention.backend import BACKENDS, implementation, pick_backend
from falcon_cli.attention.reading import reading
from falcon_cli.attention.view import View
from falcon_cli.errors import UsageError
from falcon_cli.tree.shape import ancestors_of


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_known_to_transformers_and_calls_ours(name):
    hook = AttentionInterface()[implementation(name)]
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    view = View(6, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    module = torch.nn.Module()
    out, weights = hook(module, query, key, value, None, falcon_view=view, scaling=0.3, sliding_window=4, dropout=0.0)
    assert weights is None
    mask = view.mask_TS(torch.float32, 4)[None]
    assert torch.equal(out, BACKENDS[name](query, key, value, view, 0.3, mask).transpose(1, 2))
    out, _ = hook(module, query, key, value, None, falcon_view=view)
    assert torch.equal(out, BACKENDS[name](query, key, value, view, 8**-0.5, None).transpose(1, 2))


@pytest.mark.parametrize("name", BACKENDS)
def test_transformers_takes_no_backend_of_ours_for_flash_attns(name, tiny_model):
    """It looks for "flash" in the name, and for the package then."""
    model = tiny_model()
    model.set_attn_implementation(implementation(name))
    assert model.config._attn_implementation == implementation(name)


def test_a_forward_without_a_view_is_refused():
    hook = AttentionInterface()[implementation("sdpa")]
    with pytest.raises(TypeError, match="view of a forward"):
        hook(torch.nn.Module(), *torch.randn(3, 1, 2, 4, 8), None)


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("installed", "device", "capability", "dtype", "picked"),
    [
        (True, GPU, (8, 0), torch.bfloat16, "flash"),
        (True, GPU, (9, 0), torch.float16, "flash"),
        (True, GPU, (12, 0), torch.float16, "flash"),
        (True, GPU, (7, 5), torch.float16, "sdpa"),
        (True, GPU, (9, 0), torch.float32, "sdpa"),
        (False, GPU, (9, 0), torch.bfloat16, "sdpa"),
        (True, CPU, None, torch.bfloat16, "sdpa"),
    ],
)
def test_auto_takes_flash_where_flash_attn_runs(monkeypatch, installed, device, capability, dtype, picked):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(backend, "find_spec", lambda name: object() if installed else None)
    assert pick_backend("auto", device, dtype) == picked


def test_a_backend_that_is_asked_for_is_taken_or_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert pick_backend("flash", CPU, torch.float32) == "flash"  # on a CPU torch's own kernel serves
    with pytest.raises(UsageError, match="needs the flash-attn package"):
        pick_backend("flash", GPU, torch.bfloat16)
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(UsageError, match=r"a GPU of compute capability 8\.0 or later"):
        pick_backend("flash", GPU, torch.float16)
    with pytest.raises(UsageError, match="did you mean flash"):
        pick_backend("flahs", CPU, torch.float32)


def step_by_step(query, key, value, seen_TS, scale, softcap, sink_N):
    """Attention with capped scores and sinks, head by head."""
    out = torch.empty_like(query)
    for head in range(query.shape[1]):
        scores = query[0, head] @ key[0, head // 2].T * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.masked_fill(~seen_TS, float("-inf")).exp()
        total = weights.sum(-1, keepdim=True) + (0 if sink_N is None else sink_N[head].exp())
        out[0, head] = weights / total @ value[0, head // 2]
    return out


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("softcap", "sinks"), [(2.0, False), (None, True), (2.0, True)])
def test_scores_are_capped_and_sinks_looked_at(name, softcap, sinks):
    hook = AttentionInterface()[implementation(name)]
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    sink_N = torch.randn(4) if sinks else None
    view = View(6, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    with reading(view):
        out, _ = hook(torch.nn.Module(), query, key, value, None, softcap=softcap, s_aux=sink_N)
    expected = step_by_step(query, key, value, view.seen_TS, 8**-0.5, softcap, sink_N)
    torch.testing.assert_close(out.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)


def test_a_models_own_mask_comes_before_the_views():
    hook = AttentionInterface()[implementation("sdpa")]
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    view = View(6, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    mask = view.seen_TS.clone()[None, None]
    mask[..., 2:5] = False
    with reading(view):
        out, _ = hook(torch.nn.Module(), query, key, value, mask)
    expected = step_by_step(query, key, value, mask[0, 0], 8**-0.5, None, None)
    torch.testing.assert_close(out.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)
