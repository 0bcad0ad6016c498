"""The state of a training run: weights and optimizer state in safetensors, replaced atomically.

Batches, phases, noise and glances depend on the step alone. So an exact resume needs the weights, the optimizer state
and the number of the step, and nothing else.
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


def save_state(folder: Path, network: nn.Module, optimizers: Optimizers, step: int) -> None:
    """Write the state after `step` optimizer steps; the previous one stays until the new one is complete.

    Raises:
        FalconError: The disk is full, or the folder cannot be written.
    """
    weights = _cpu_copies(network.state_dict())
    moments = _cpu_copies(dict(tensors_of(network, optimizers)))
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*weights.values(), *moments.values()))
    with atomic_folder(folder, needed=size) as unfinished:
        save_file(weights, unfinished / "weights.safetensors")
        save_file(moments, unfinished / "optimizer.safetensors")
        (unfinished / "state.json").write_text(json.dumps({"step": step}) + "\n")
    # Only now: until the rename, a leftover of an earlier kill may be the only whole state.
    for leftover in _leftovers(folder):
        rmtree(leftover, ignore_errors=True)


def load_state(folder: Path, network: nn.Module, optimizers: Optimizers) -> int:
    """Restore the state; returns the step to continue with (0 if nothing was saved).

    Raises:
        FalconError: The state is damaged.
    """
    # `state.json` is written last, so a folder that has it is whole. The state itself comes first; a kill between the
    # two renames of a save leaves none, but the leftovers then hold `new` (preferred: it sorts first) and `old`.
    candidates = [folder, *(place for leftover in _leftovers(folder) for place in sorted(leftover.iterdir()))]
    saved = next((place for place in candidates if (place / "state.json").is_file()), None)
    if saved is None:
        return 0
    try:
        step = int(json.loads((saved / "state.json").read_text())["step"])
        network.load_state_dict(load_file(saved / "weights.safetensors"))
        restore(network, optimizers, load_file(saved / "optimizer.safetensors"))
    except Exception as error:
        raise FalconError(f"{saved} is damaged ({first_line(error)}): delete it to train from the start") from error
    return step


def _leftovers(folder: Path) -> list[Path]:
    """What a kill during a save left next to the state: `new`, whole or not, and maybe `old`."""
    return sorted(folder.parent.glob(f".{folder.name}.*.part"))


def _cpu_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Copied, because tied weights share memory, which safetensors refuses to write.
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
