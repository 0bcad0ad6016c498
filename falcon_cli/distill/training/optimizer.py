"""The optimizers and the learning rate: AdamW (the paper's), or Muon for the matrices."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from falcon_cli.distill.training.muon import Fp32Muon
from falcon_cli.recipe.distill import TrainingRecipe


def make_optimizers(network: nn.Module, recipe: TrainingRecipe) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon for the matrices and AdamW for the rest.

    Muon's steps are scaled to the size of AdamW's (`match_rms_adamw`), so one learning rate serves both.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() == 2] if recipe.optimizer == "muon" else []
    rest = [parameter for parameter in trainable if not any(parameter is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        kind = Fp32Muon if matrices[0].device.type == "cpu" else torch.optim.Muon
        optimizers.append(
            kind(matrices, recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    if rest:
        optimizers.append(
            torch.optim.AdamW(
                rest, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
            )
        )
    return optimizers


def factor(step: int, steps: int, recipe: TrainingRecipe) -> float:
    """The learning rate at a step, as a share of the recipe's: linear warmup, then half a cosine down to `final`."""
    rise = max(1, round(recipe.warmup * steps))
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return recipe.final + (1 - recipe.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Give every optimizer this learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def tensors_of(network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the optimizers' state, named `parameter/key`."""
    for name, parameter in network.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                yield f"{name}/{key}", torch.as_tensor(value)


def restore(network: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restore the state that `tensors_of` returned."""
    owner = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.named_parameters())
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        parameter = parameters[name]
        owner[id(parameter)].state[parameter][key] = value.to(parameter.device)  # a fused AdamW counts its steps there
