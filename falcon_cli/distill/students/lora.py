"""Adapts an existing drafter with few weights (peft's LoRA), and merges them into it at the end.

Every linear layer of the drafter gets a low-rank change; all other weights are fixed. An LSTM mixer has no linear
layer, so only the other layers of its drafter adapt.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.recipe.distill import LoraRecipe


@torch.no_grad()
def adapt(network: DrafterNetwork, recipe: LoraRecipe, generator: torch.Generator) -> DrafterNetwork:
    """Add trainable low-rank changes to the network, in place; its other weights are fixed."""
    from peft import LoraConfig, inject_adapter_in_model

    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers)
    adapted: Any = inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_A" in name:  # peft draws them from torch's global state
            bound = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
    return adapted


def merged(network: DrafterNetwork) -> DrafterNetwork:
    """A copy in which the low-rank changes are added to the weights."""
    from peft.tuners.lora import LoraLayer

    plain = deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(parent), attribute, module.get_base_layer())
    return plain
