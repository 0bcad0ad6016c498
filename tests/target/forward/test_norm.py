"""The final norm by what it does, whatever its weights mean."""

import pytest
import torch
from torch import nn

from falcon_cli.studies.families import built
from falcon_cli.target.forward.norm import final_norm
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel

NORMS = {
    "llama": lambda model: (model.model.norm.weight, None),
    "gemma": lambda model: (1 + model.model.norm.weight, None),
    "gemma2": lambda model: (1 + model.model.norm.weight, None),
    "olmo": lambda model: (torch.ones(32), None),
    "cohere": lambda model: (model.model.norm.weight, None),
    "phi": lambda model: (model.model.final_layernorm.weight, model.model.final_layernorm.bias),
    "gpt2": lambda model: (model.transformer.ln_f.weight, model.transformer.ln_f.bias),
    "opt": lambda model: (model.model.decoder.final_layer_norm.weight, model.model.decoder.final_layer_norm.bias),
    "minicpm3": lambda model: (model.model.norm.weight / (32 / model.config.dim_model_base), None),
}


@pytest.mark.parametrize("family", NORMS)
def test_a_target_s_norm_is_found_and_asked(family):
    twin = made_twin(built(family))[0].float()
    scale_D, shift_D = NORMS[family](twin)
    found = TargetModel(twin).outline.norm
    torch.testing.assert_close(found.scale_D, scale_D, rtol=0, atol=0 if family != "minicpm3" else 1e-3)
    assert (found.shift_D is None) == (shift_D is None)
    if shift_D is not None:
        assert torch.equal(found.shift_D, shift_D)


@pytest.mark.parametrize("family", NORMS)
def test_undone_features_are_of_unit_size(family):
    target = TargetModel(made_twin(built(family))[0].float())
    norm = target.outline.norm
    features_TD = target.prefill(torch.tensor([5, 9, 40, 41, 3])).features_TD
    undone = (features_TD if norm.shift_D is None else features_TD - norm.shift_D) / norm.scale_D
    torch.testing.assert_close(undone.square().mean(-1), torch.ones(5), rtol=1e-2, atol=0)


@pytest.mark.parametrize("size", [32, 33])
def test_a_norm_of_another_s_making_is_asked(size):
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(size) + 0.5)

        def forward(self, rows):
            return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True)) * self.weight / 2 + 3

    module = Halved()
    found = final_norm(module, size, 1e-5)
    torch.testing.assert_close(found.scale_D, module.weight.detach() / 2)
    torch.testing.assert_close(found.shift_D, torch.full((size,), 3.0))
    assert found.epsilon == 1e-5


def test_a_norm_of_odd_size_that_takes_the_mean_off():
    module = nn.LayerNorm(33)
    nn.init.uniform_(module.weight)
    assert torch.equal(final_norm(module, 33, 1e-5).scale_D, module.weight.detach())


@pytest.mark.parametrize("module", [None, nn.Linear(32, 32), nn.Identity(), nn.Tanh()])
def test_without_a_norm_the_features_size_is_taken(module):
    found = final_norm(module, 32, 1e-6, features=torch.full((1, 2, 32), 4.0))
    assert torch.equal(found.scale_D, torch.full((32,), 4.0))
    assert found.shift_D is None
    assert "no norm before the LM head" in found.told
