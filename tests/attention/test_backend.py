import pytest
import torch
from transformers import AttentionInterface

from falcon_cli.attention.backend import BACKENDS, implementation
from falcon_cli.attention.view import View
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


def test_a_forward_without_a_view_is_refused():
    hook = AttentionInterface()[implementation("sdpa")]
    with pytest.raises(TypeError, match="falcon_view"):
        hook(torch.nn.Module(), *torch.randn(3, 1, 2, 4, 8), None)
