"""What a drafter takes of a target's form."""

import pytest
import torch
from torch import nn

from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import TargetOutline, epsilon_of, layer_list


@pytest.mark.parametrize(("family", "alike"), [("llama", True), ("qwen2", True), ("qwen3", True), ("gemma", False),
                                               ("granite", False), ("phi", False), ("gpt2", False)])  # fmt: skip
def test_only_llama_s_layers_are_taken_over(family, alike):
    target = TargetModel(made_twin(built(family))[0])
    last = layer_list(target.model)[-1]
    assert target.outline.llama_layer is (last if alike else None)


def test_an_outline_of_a_decoder_alone_is_its_target_s(tiny_model):
    target = TargetModel(tiny_model())
    whole, alone = target.outline, TargetOutline.of_decoder(target.decoder)
    assert (alone.hidden_size, alone.config, alone.llama_layer) == (32, whole.config, whole.llama_layer)
    assert torch.equal(alone.norm.scale_D, whole.norm.scale_D)


def test_sizes_of_the_mlp():
    assert TargetModel(made_twin(built("llama"))[0]).outline.mlp_size == 48
    assert TargetModel(made_twin(built("gpt2"))[0]).outline.mlp_size == 88  # 8/3 of 32, in eights


@pytest.mark.parametrize("family", ["gpt2", "bloom", "opt", "gpt_neox", "mixtral", "roberta"])
def test_layers_are_found_whatever_they_are_called(family):
    layers = layer_list(made_twin(built(family))[0])
    assert isinstance(layers, nn.ModuleList)
    assert len(layers) == 2


def test_epsilons(tiny_model):
    assert epsilon_of(tiny_model(rms_norm_eps=1e-3).config) == 1e-3
    assert epsilon_of(built("gpt2").config) == 1e-5
    assert epsilon_of(built("bloom").config) == 1e-5
