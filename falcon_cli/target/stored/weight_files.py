"""Weights become safetensors files of limited size, with the index that transformers reads."""

import json
from pathlib import Path

from torch import Tensor

SHARD_BYTES = 256 << 20
"""A file of weights is written when it has grown to this; so much is held in memory, beside the largest tensor."""


class WeightFiles:
    """The safetensors files of one folder; `finish` gives them their final names.

    Args:
        folder: Where the files shall lie.
    """

    def __init__(self, folder: Path):
        self.folder, self.bytes = folder, 0
        self.held: dict[str, Tensor] = {}
        self.written: list[list[str]] = []
        self.total = 0
        self._storages: set[int] = set()

    def add(self, name: str, weight: Tensor) -> None:
        """Take a weight; what is held is written once it is large.

        A weight that shares memory with another is copied, because safetensors refuses to write the two as they are.
        """
        if self.held and self.bytes + weight.nbytes > SHARD_BYTES:
            self._write()
        storage = weight.untyped_storage().data_ptr()
        self.held[name] = weight.clone().contiguous() if storage in self._storages else weight.contiguous()
        self._storages.add(storage)
        self.bytes += weight.nbytes

    def finish(self) -> None:
        """Write the rest, and the index where there are several files."""
        self._write()
        last = len(self.written)
        places: dict[str, str] = {}
        for number, names in enumerate(self.written):
            final = f"model-{number + 1:05}-of-{last:05}.safetensors" if last > 1 else "model.safetensors"
            (self.folder / f"{number}.safetensors").rename(self.folder / final)
            places.update(dict.fromkeys(names, final))
        if last > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": places}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))

    def _write(self) -> None:
        from safetensors.torch import save_file

        save_file(self.held, self.folder / f"{len(self.written)}.safetensors", metadata={"format": "pt"})
        self.written.append(list(self.held))
        self.total += self.bytes
        self.held, self.bytes = {}, 0
        self._storages.clear()
