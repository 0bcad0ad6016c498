"""On what a target runs: what speed depends on, and so what a tuned tree and a cost table belong to."""

import hashlib
from dataclasses import asdict, dataclass

import torch

from falcon_cli.recipe.provenance import cpu
from falcon_cli.target.load import LoadedTarget


@dataclass(frozen=True)
class Setting:
    """A target on a device."""

    device: str
    """The processor's or the GPU's name."""
    target: str
    weights: str
    """fp32, bf16, fp16, int8, int4 or file."""
    kernels: str
    """native, torch or compiled."""
    threads: int
    """Of the CPU; 0 on a GPU."""

    @classmethod
    def of(cls, target: LoadedTarget) -> "Setting":
        """The setting of a loaded target."""
        model = target.model
        on_cpu = model.device.type == "cpu"
        return cls(
            device=cpu() if on_cpu else torch.cuda.get_device_name(model.device),
            target=target.name,
            weights=target.dtype if model.native is None else model.native.kind,
            kernels="compiled" if model.graphs is not None else "torch" if model.native is None else "native",
            threads=torch.get_num_threads() if on_cpu else 0,
        )

    @property
    def key(self) -> str:
        """A short name, the same for the same setting."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """For people."""
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.target} in {self.weights} on {self.device}{threads} ({self.kernels} kernels)"
