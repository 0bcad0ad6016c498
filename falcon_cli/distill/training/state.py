"""Where a training run stands: weights and optimizer state, written whole, in safetensors.

Batches, phases, noise and glances depend on the step alone, so weights, optimizer state and the step's number are all
that an exact resume needs.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from falcon_cli.distill.training.optimizer import restore, tensors_of
from falcon_cli.errors import FalconError, first_line
from falcon_cli.sources import atomic_folder

Optimizers = list[torch.optim.Optimizer]


def save_state(folder: Path, network: nn.Module, made: Optimizers, step: int) -> None:
    """Write the state after `step` optimizer steps; the one before stays until the new one is whole.

    Raises:
        FalconError: The disk is full, or the place cannot be written.
    """
    weights = _own(network.state_dict())
    moments = _own(dict(tensors_of(network, made)))
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*weights.values(), *moments.values()))
    with atomic_folder(folder, needed=size) as unfinished:
        save_file(weights, unfinished / "weights.safetensors")
        save_file(moments, unfinished / "optimizer.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": step}) + "\n")
    for leftover in _leftovers(folder):
        rmtree(leftover, ignore_errors=True)


def load_state(folder: Path, network: nn.Module, made: Optimizers) -> int:
    """Put the state back; returns the step to go on with (0 where nothing was saved).

    Raises:
        FalconError: The state is damaged.
    """
    places = [folder, *(place for leftover in _leftovers(folder) for place in sorted(leftover.iterdir()))]
    held = next((place for place in places if (place / "state.json").is_file()), None)
    if held is None:
        return 0
    try:
        step = int(json.loads((held / "state.json").read_text())["step"])
        network.load_state_dict(load_file(held / "weights.safetensors"))
        restore(network, made, load_file(held / "optimizer.safetensors"))
    except Exception as error:
        raise FalconError(f"{held} is damaged ({first_line(error)}): delete it to train from the start") from error
    return step


def _leftovers(folder: Path) -> list[Path]:
    """What a kill in the middle of a save left beside the state: `new`, whole or not, and maybe `old`."""
    return sorted(folder.parent.glob(f".{folder.name}.*.part"))


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
