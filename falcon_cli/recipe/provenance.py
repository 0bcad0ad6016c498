"""Where a result comes from: enough to run it again, and nothing that names the person or the machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from falcon_cli import __version__
from falcon_cli.recipe.cores import usable_cores

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "datasets", "gguf", "numpy", "flash-attn")
_ABSOLUTE = re.compile(r"(^|=)[/~][^\s,]*/(?=[^/\s])")


def provenance(argv: Sequence[str]) -> dict[str, Any]:
    """Describe this run: command, versions, machine and time.

    Args:
        argv: the command line, the program first; absolute paths in it are cut to their last part.

    Returns:
        `command` (list of words), `falcon`, `python`, `platform`, `cpu`, `cores` (usable by this process), `packages`
        (name → version of those installed) and `date` (local, with its offset from UTC, ISO 8601); all fit for JSON
        and YAML.
    """
    return {
        "command": ["falcon", *map(without_folders, argv[1:])],
        "falcon": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": usable_cores(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "date": now().isoformat(),
    }


def without_folders(word: str) -> str:
    """A word of a command, or a setting, with the absolute paths in it cut to their last part."""
    return _ABSOLUTE.sub(r"\1", word)


def now() -> datetime:
    """The local time with its offset from UTC, to the second."""
    return datetime.now().astimezone().replace(microsecond=0)


def cpu() -> str:
    """Return the processor's model name; Linux alone tells it without asking another program."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
