"""Weights that were published as pickles (pytorch_model.bin) become safetensors files, once.

A pickle can name any code to be run. torch's own reader of weights takes tensors alone and refuses everything else, so
nothing of a file is executed.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from falcon_cli.console import progress
from falcon_cli.errors import FalconError, first_line
from falcon_cli.sources import atomic_folder, home, locked
from falcon_cli.target.hub import why_not_loaded
from falcon_cli.target.stored.weight_files import WeightFiles

VERSION = 1
"""Of the conversion: folders made by another are not used."""
SAFE = ("model.safetensors", "model.safetensors.index.json")
ONE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")
"""What lies beside the weights of a model, and is not large."""
_ENDS = 1 << 20  # bytes at both ends of a file that tell it from another; an archive ends with its checksums


def with_safetensors(where: str, revision: str | None) -> str:
    """What transformers is to read the weights from: `where` itself, or the converted copy of a pickled model.

    Args:
        where: Folder or hub id.
        revision: Of a hub model.

    Raises:
        FalconError: The weights are incomplete, are no tensors, or do not fit the disk.
    """
    source = Path(where) if Path(where).exists() else _snapshot(where, revision)
    if source is None or any((source / name).is_file() for name in SAFE):
        return where
    if not any((source / name).is_file() for name in (INDEX, ONE)):
        return where
    shards = _shards(source)
    name = source.resolve().name if Path(where).exists() else where.replace("/", "--")
    folder = home() / "unpickled" / f"{name}-{_fingerprint(source, shards)}-v{VERSION}"
    with locked(folder):
        if not (folder / "config.json").is_file():
            _convert(name, source, shards, folder)
    return str(folder)


def _snapshot(where: str, revision: str | None) -> Path | None:
    """The local copy of a hub model whose weights are pickled, fetched if need be; None for any other."""
    from huggingface_hub import list_repo_files, snapshot_download, try_to_load_from_cache

    try:
        if any(isinstance(try_to_load_from_cache(where, name, revision=revision), str) for name in SAFE):
            return None
        names = set(list_repo_files(where, revision=revision))
    except Exception:  # no network, no such model: what is in the cache will do, or loading tells it better
        kept = [*_BESIDE, ONE, "pytorch_model-*.bin"]
        try:
            return Path(snapshot_download(where, revision=revision, allow_patterns=kept, local_files_only=True))
        except Exception:
            return None
    if not names.isdisjoint(SAFE) or names.isdisjoint((ONE, INDEX)):
        return None
    weights = ("pytorch_model-*.bin",) if INDEX in names else (ONE,)
    try:
        return Path(snapshot_download(where, revision=revision, allow_patterns=[*_BESIDE, *weights]))
    except Exception as error:
        raise FalconError(why_not_loaded(where, error, "pickled weights")) from error


def _shards(source: Path) -> list[Path]:
    """The files of a model's weights.

    Raises:
        FalconError: One is missing, or the index names a file elsewhere.
    """
    if not (source / INDEX).is_file():
        return [source / ONE]
    try:
        names = sorted(set(json.loads((source / INDEX).read_bytes())["weight_map"].values()))
        strange = [name for name in names if Path(name).name != name or "\\" in name or not name.endswith(".bin")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FalconError(f"{source / INDEX} is no index of weights ({first_line(error)})") from error
    if strange:
        raise FalconError(f"{source / INDEX} names {strange[0]}, which is no .bin file of its own folder")
    for name in names:
        if not (source / name).is_file():
            raise FalconError(f"{source}: the file of weights {name} is missing: fetch the model again")
    return [source / name for name in names]


def _fingerprint(source: Path, shards: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in _beside(source):
        digest.update(path.name.encode() + path.read_bytes())
    for path in shards:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_ENDS))
            file.seek(max(0, size - _ENDS))
            digest.update(file.read())
    return digest.hexdigest()[:12]


def _beside(source: Path) -> list[Path]:
    found = {path for pattern in _BESIDE for path in source.glob(pattern)}
    return sorted(path for path in found if path.is_file() and path.name != INDEX)


def _convert(name: str, source: Path, shards: list[Path], folder: Path) -> None:
    needed = sum(shard.stat().st_size for shard in shards)
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise FalconError(
            f"{source}: converted to safetensors it takes {needed / 1e9:.2f} GB, and {folder.parent} has "
            f"{free / 1e9:.2f} GB free: free some, or set FALCON_HOME to another disk"
        )
    with atomic_folder(folder, needed) as unfinished:
        files, seen = WeightFiles(unfinished), set[str]()
        with progress(f"converting {name} to safetensors (once)", float(needed), "B") as bar:
            for shard in shards:
                for key, weight in _tensors(shard):
                    if key not in seen:
                        files.add(key, weight)
                    seen.add(key)
                    bar.advance(weight.nbytes)
        files.finish()
        for path in _beside(source):
            shutil.copyfile(path, unfinished / path.name)


def _tensors(shard: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file; they stay on disk until they are used, where its form allows it."""
    try:
        held = _load(shard)
    except UnpicklingError as error:
        raise FalconError(
            f"{shard} holds other objects than tensors, which might run code: it is not read, and nothing of it was "
            "executed; give a model with safetensors weights"
        ) from error
    except Exception as error:  # cut short, no archive, out of memory: whatever torch raises
        raise FalconError(f"{shard} cannot be read as PyTorch weights ({first_line(error)})") from error
    if not isinstance(held, dict) or not all(isinstance(weight, Tensor) for weight in held.values()):
        raise FalconError(f"{shard} is no list of named tensors: give a model with safetensors weights")
    for key in list(held):
        yield str(key), held.pop(key).detach()


def _load(shard: Path) -> Any:
    try:
        return torch.load(shard, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the form of PyTorch before 1.6
        return torch.load(shard, map_location="cpu", weights_only=True)
