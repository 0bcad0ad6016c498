"""A target too large for one device: its decoder layers are spread over all processes (FSDP2).

Each process holds its part of every layer and gathers a layer when its turn comes, so all processes must run the same
number of forwards, each on texts of its own.
"""

from dataclasses import replace

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from falcon_cli.errors import FalconError
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import layer_list


def sharded(target: LoadedTarget, device: torch.device, processes: int) -> LoadedTarget:
    """The target with its decoder layers spread over the processes' devices.

    It was loaded into main memory; layer by layer goes to the device, where only this process's part of it stays.
    Embedding, final norm and LM head are whole in every process.

    Raises:
        FalconError: It has no list of layers.
    """
    layers = layer_list(target.model.model)
    if layers is None:
        raise FalconError(f"{target.name}: its layers cannot be told, so it cannot be spread over processes (FSDP)")
    mesh = init_device_mesh(device.type, (processes,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = target.model
    model = TargetModel(whole.model.to(device), whole.backend, whole.chunk, branches=whole.branches)
    model.logit_form, model.sharded = whole.logit_form, True
    return replace(target, model=model)


@torch.no_grad()
def idle_forward(target: TargetModel) -> None:
    """Take part in a forward of the others without a text of one's own."""
    with target.plain_transformers():
        target.forward.features(torch.zeros(1, 1, dtype=torch.long, device=target.device), use_cache=False)
