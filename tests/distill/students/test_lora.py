"""Low-rank changes: only they learn, and merging adds them to the weights."""

import pytest
import torch

from falcon_cli.distill.students import lora
from falcon_cli.distill.students.lora import merged
from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.recipe.distill import LoraRecipe

LENGTH = 8
MASK = Blocks.of_texts(torch.tensor([LENGTH]), LENGTH, 2, 0)
MIXERS = pytest.mark.parametrize("mixer", ["linear", "time", "position"])


@pytest.fixture
def network(tiny_target, tiny_network):
    def build(mixer="linear"):
        return tiny_network(tiny_target.model.decoder, k=2, mixer=mixer).train().requires_grad_(True)

    return build


@pytest.fixture
def inputs():
    return torch.randn(3, 1, LENGTH, 32, generator=torch.Generator().manual_seed(0))


def adapt(network, **recipe):
    return lora.adapt(network, LoraRecipe(**recipe), torch.Generator().manual_seed(1))


def output(network, inputs):
    return network(inputs[0], inputs[1], MASK, inputs[2])


def train(network, inputs, steps=3):
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        output(network, inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@MIXERS
def test_at_first_nothing_has_changed(network, inputs, mixer):
    plain = output(network(mixer), inputs)
    torch.testing.assert_close(output(adapt(network(mixer), rank=2), inputs), plain)


@MIXERS
def test_only_the_low_rank_changes_learn(network, inputs, mixer):
    adapted = adapt(network(mixer), rank=2)
    before = {name: value.clone() for name, value in adapted.named_parameters()}
    train(adapted, inputs)
    changed = {name for name, value in adapted.named_parameters() if not torch.equal(before[name], value)}
    assert changed == {name for name in before if "lora_" in name}
    layers = {name.split(".lora_")[0] for name in changed}
    assert {"own", "chain.0", "layer.self_attn.q_proj", "layer.mlp.down_proj"} <= layers
    assert ("mixer" in layers) == (mixer == "linear")


@MIXERS
def test_merged_changes_give_the_same_outputs(network, inputs, mixer):
    adapted = adapt(network(mixer), rank=2, alpha=3)
    train(adapted, inputs)
    whole = merged(adapted)
    torch.testing.assert_close(output(whole, inputs), output(adapted, inputs), rtol=1e-4, atol=1e-5)  # fp32
    assert not torch.allclose(output(whole, inputs), output(network(mixer), inputs), atol=1e-3)
    assert whole.state_dict().keys() == network(mixer).state_dict().keys()


def test_merging_leaves_the_student_as_it_was(network, inputs):
    adapted = adapt(network(), rank=2)
    train(adapted, inputs)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    merged(adapted)
    after = adapted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    train(adapted, inputs)


def test_a_network_without_changes_is_copied(network):
    plain = network()
    whole = merged(plain)
    assert whole is not plain
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in whole.state_dict().items())


def test_more_rank_has_more_to_learn(network):
    def trainable(rank):
        return sum(p.numel() for p in adapt(network(), rank=rank).parameters() if p.requires_grad)

    assert trainable(4) == 2 * trainable(2) > 0
