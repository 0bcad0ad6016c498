"""Muon in fp32 is torch's, but for the rounding of bf16."""

import pytest
import torch
from torch import nn

from falcon_cli.distill.training.muon import Fp32Muon, orthogonalised


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_singular_values_come_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    product = u.T @ orthogonalised(matrix) @ v.T
    assert torch.allclose(product, torch.diag(product.diag()), atol=1e-9)
    assert 0.3 < product.diag().min() <= product.diag().max() < 1.4


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_its_steps_are_those_of_torch(weight_decay):
    kinds = (Fp32Muon, torch.optim.Muon)
    weights = [nn.Parameter(torch.randn(12, 20, generator=torch.Generator().manual_seed(1))) for _ in kinds]
    begin = weights[0].detach().clone()
    optimizers = [
        kind([weight], 0.01, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        for kind, weight in zip(kinds, weights, strict=True)
    ]
    draw = torch.Generator().manual_seed(2)
    for _ in range(4):
        gradient = torch.randn(12, 20, generator=draw)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    ours, theirs = (weight.detach() - begin for weight in weights)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_a_parameter_without_gradient_stays_and_closures_are_refused():
    weight = nn.Parameter(torch.ones(2, 3))
    muon = Fp32Muon([weight], 0.1)
    muon.step()
    assert torch.equal(weight, torch.ones(2, 3))
    with pytest.raises(ValueError, match="takes no closures"):
        muon.step(lambda: 0.0)
