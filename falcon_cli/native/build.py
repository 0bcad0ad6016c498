"""The kernels' library: compiled on first use for this very processor, then kept in the cache.

Everything that shapes the machine code is part of its name (source, compiler, torch, processor), so nothing stale is
ever loaded. A second process waits for the first one's compiler.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from falcon_cli.console import say
from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_folder, home, locked

SOURCE = Path(__file__).with_name("kernels")
"""A folder of C++."""
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-std=c++20"]
NEEDED = ("avx2", "fma")


class NoKernelsError(FalconError):
    """The kernels cannot run here; the text says why."""


@cache
def load_kernels() -> None:
    """Make `torch.ops.falcon` available, compiling it if need be.

    Raises:
        NoKernelsError: Another processor, no compiler, or the compiler fails.
    """
    lacking = [flag for flag in NEEDED if flag not in _processor().split()]
    if lacking:
        raise NoKernelsError(f"this processor has no {' and no '.join(lacking)}")
    folder = home() / "native" / version()
    library = folder / "falcon_kernels.so"
    with locked(folder):
        if not library.is_file():
            return _compile(folder)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise NoKernelsError(f"{library} cannot be loaded ({error}); delete it to have it made anew") from error


def _compiler() -> str:
    name = os.environ.get("CXX", "g++" if shutil.which("g++") else "c++")
    found = shutil.which(name)
    if found is None:
        raise NoKernelsError("there is no C++ compiler (g++)")
    return found


@cache
def _processor() -> str:
    """The instruction sets of this CPU, as Linux lists them; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")


def version() -> str:
    """A name of the machine code: another source, compiler, torch or processor, another name."""
    compiler = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    parts = [
        *(path.read_text() for path in sorted(SOURCE.iterdir())),
        *FLAGS,
        compiler,
        torch.__version__,
        sys.version,
        platform.machine(),
        _processor(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compile(folder: Path) -> None:
    """Build the library, load it from where it is built, then put its folder in place."""
    say("compiling the CPU kernels (once, about half a minute)")
    try:
        from torch.utils.cpp_extension import load

        with atomic_folder(folder) as unfinished:
            load(
                name="falcon_kernels",
                sources=sorted(map(str, SOURCE.glob("*.cpp"))),
                extra_cflags=FLAGS,
                extra_ldflags=["-fopenmp"],
                build_directory=str(unfinished),
                is_python_module=False,
            )
    except FalconError:
        raise
    except Exception as error:  # setuptools, ninja, the compiler, the loader: whatever they raise
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        raise NoKernelsError(f"the compiler failed ({(lines or [type(error).__name__])[0].strip()})") from error
