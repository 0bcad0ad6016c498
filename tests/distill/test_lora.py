"""A low-rank change: the only thing that learns, and gone when merged."""

import pytest
import torch

from falcon_cli.distill.lora import adapt, merged
from falcon_cli.drafter.masks import relaxed_causal_BLL
from falcon_cli.recipe.distill import LoraRecipe

MASK = relaxed_causal_BLL(torch.tensor([6]), 6, 2, 0)


@pytest.mark.parametrize("mixer", ["linear", "time"])
def test_only_the_change_learns_and_merging_keeps_what_it_says(classroom, mixer):
    network = classroom(mixer=mixer).pupil.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapt(network, LoraRecipe(rank=2, alpha=4))
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if name in learning:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    inputs = torch.randn(2, 1, 6, 32, generator=generator)
    plain = merged(network)
    with torch.no_grad():
        torch.testing.assert_close(plain(*inputs, MASK, inputs[0]), network(*inputs, MASK, inputs[0]))
    assert plain.state_dict().keys() == before.keys()
    changed = [name for name, value in plain.state_dict().items() if not torch.equal(value, before[name])]
    assert any("q_proj" in name for name in changed)
    assert not any("norm" in name or "mixer.weight_" in name for name in changed)


def test_a_network_without_a_change_is_copied(classroom):
    network = classroom().pupil.network
    copy = merged(network)
    assert copy is not network
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), network.parameters(), strict=True))
