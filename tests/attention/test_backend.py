import pytest
import torch
from transformers import AttentionInterface

from falcon_cli.attention import backend
from falcon_cli.attention.backend import BACKENDS, implementation, pick_backend
from falcon_cli.attention.view import View
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.tree.shape import ancestors_of


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_is_known_to_transformers_and_calls_ours(name):
    hook = AttentionInterface()[implementation(name)]
    query, key, value = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    view = View(6, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    module = torch.nn.Module()
    out, weights = hook(module, query, key, value, None, falcon_view=view, scaling=0.3, sliding_window=4, dropout=0.0)
    assert weights is None
    assert torch.equal(out, BACKENDS[name](query, key, value, view, 0.3, 4).transpose(1, 2))
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
    with pytest.raises(TypeError, match="falcon_view"):
        hook(torch.nn.Module(), *torch.randn(3, 1, 2, 4, 8), None)


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("installed", "device", "dtype", "picked"),
    [
        (True, GPU, torch.bfloat16, "flash"),
        (True, GPU, torch.float16, "flash"),
        (True, GPU, torch.float32, "sdpa"),
        (False, GPU, torch.bfloat16, "sdpa"),
        (True, CPU, torch.bfloat16, "sdpa"),
    ],
)
def test_auto_takes_flash_where_flash_attn_runs(monkeypatch, installed, device, dtype, picked):
    monkeypatch.setattr(backend, "find_spec", lambda name: object() if installed else None)
    assert pick_backend("auto", device, dtype) == picked


def test_a_backend_that_is_asked_for_is_taken_or_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert pick_backend("flash", CPU, torch.float32) == "flash"  # on a CPU torch's own kernel serves
    with pytest.raises(UsageError, match="needs the flash-attn package"):
        pick_backend("flash", GPU, torch.bfloat16)
    with pytest.raises(UsageError, match="did you mean flash"):
        pick_backend("flahs", CPU, torch.float32)


@pytest.mark.parametrize("trait", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}])
def test_attention_that_we_do_not_compute_is_refused_rather_than_ignored(trait):
    hook = AttentionInterface()[implementation("sdpa")]
    view = View(0, torch.arange(4), None)
    with pytest.raises(FalconError, match="does not compute"):
        hook(torch.nn.Module(), *torch.randn(3, 1, 2, 4, 8), None, falcon_view=view, **trait)
