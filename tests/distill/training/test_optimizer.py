"""Learning rates, and state that comes back exactly."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from falcon_cli.distill.training.optimizer import factor, make_optimizers, restore, set_rate, tensors_of
from falcon_cli.recipe.distill import TrainingRecipe

RECIPE = TrainingRecipe(warmup=0.1, final=0.2, learning_rate=0.01)


def test_the_rate_rises_then_falls_to_its_last_share():
    shares = [factor(step, 100, RECIPE) for step in range(100)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert all(a >= b for a, b in pairwise(shares[9:]))
    assert shares[-1] == pytest.approx(0.2, abs=0.001)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6))


def train(net, optimizers, steps):
    draw = torch.Generator().manual_seed(5)
    for step in range(steps):
        set_rate(optimizers, RECIPE.learning_rate * factor(step, 10, RECIPE))
        net(torch.randn(8, 4, generator=draw)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_restored_optimizers_continue_exactly(kind):
    recipe = TrainingRecipe(optimizer=kind, learning_rate=0.01)
    first = network()
    optimizers = make_optimizers(first, recipe)
    train(first, optimizers, 3)
    second = network()
    second.load_state_dict(first.state_dict())
    again = make_optimizers(second, recipe)
    restore(second, again, {name: value.clone() for name, value in tensors_of(first, optimizers)})
    train(first, optimizers, 2)
    train(second, again, 2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    muon, adamw = make_optimizers(network(), TrainingRecipe(optimizer="muon"))
    assert [p.dim() for p in muon.param_groups[0]["params"]] == [2]
    assert [p.dim() for p in adamw.param_groups[0]["params"]] == [1, 1]


def test_fixed_parameters_are_left_alone():
    net = network()
    net[0].requires_grad_(False)
    (adamw,) = make_optimizers(net, TrainingRecipe())
    assert len(adamw.param_groups[0]["params"]) == 1
