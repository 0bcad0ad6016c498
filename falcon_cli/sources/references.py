"""What a user may name as a target or a data file, and where that lies on this machine."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.sources.fetching import fetch_target
from falcon_cli.sources.targets import built_in_targets

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.ASCII | re.IGNORECASE)
"""The end of the name that llama-gguf-split gives to a part."""
_PATH_STARTS = ("./", "../", "/", "~")


def resolve_target(reference: str) -> Path | str:
    """Return the local file or folder a target reference means, or the reference itself when it is a hub id.

    A built-in name (`built_in_targets`) is fetched; an existing folder, or file ending in `.gguf`, is taken as it is;
    anything else must look like a model hub's `name` or `org/name`.

    Raises:
        FalconError: a path that is not there, is no model or a part of one, or a failed download.
        UsageError: neither built-in name, path nor hub id.
    """
    if reference in built_in_targets():
        return fetch_target(built_in_targets()[reference])
    path = Path(os.path.expanduser(reference))  # os.path never raises, however odd the name
    if reference and os.path.exists(path):
        _check_local(reference, path)
        return path
    if reference.startswith(_PATH_STARTS) or is_gguf(path):
        raise FalconError(f"no such file or folder: {reference}")
    return _hub_id(reference)


def is_gguf(path: Path) -> bool:
    """Whether a file's name is that of a GGUF file."""
    return path.suffix.lower() == ".gguf"


def _check_local(reference: str, path: Path) -> None:
    if path.is_file() and not is_gguf(path):
        raise FalconError(f"{reference} is no model: give a .gguf file or a folder in the transformers format")
    part = _SPLIT.search(path.name)
    if part and int(part[1]) > 1:
        raise FalconError(
            f"{reference} is one of {int(part[1])} parts of a GGUF file: merge them with llama.cpp's "
            "llama-gguf-split --merge FIRST_PART NEW.gguf, and give the new file"
        )
    if path.is_dir() and not (path / "config.json").exists():
        inside = sorted(entry.name for entry in path.iterdir() if is_gguf(entry))
        if inside:
            more = ", ..." if len(inside) > 5 else ""
            raise FalconError(f"{reference} holds GGUF files: name one of them ({', '.join(inside[:5])}{more})")


def built_in_names() -> str:
    """The built-in targets on one line, each with its size, its licence and whether it is here."""
    return f"a built-in name ({'; '.join(map(str, built_in_targets().values()))})"


def _hub_id(reference: str) -> str:
    close = _meant(reference)
    if close or not _HUB_ID.fullmatch(reference):
        hint = f" (did you mean {close}?)" if close else ""
        raise UsageError(f'no target "{reference}"{hint}: give a path, a hub id (org/name) or {built_in_names()}')
    return reference


def _meant(reference: str) -> str | None:
    """The built-in name that a reference without an organisation is a slip or the beginning of.

    Hub ids without one exist (gpt2), so that any other is left to the hub.
    """
    if "/" in reference:
        return None
    name, known = reference.lower(), list(built_in_targets())
    begun = [target for target in known if name and target.startswith(name)]
    return next(iter([*get_close_matches(name, known, n=1, cutoff=0.7), *begun]), None)


def data_file(name: str) -> Path | None:
    """Return `$FALCON_DATA/name` where the variable is set and the file is there, else None."""
    folder = os.environ.get("FALCON_DATA")
    path = Path(folder).expanduser() / name if folder else None
    return path if path is not None and path.is_file() else None
