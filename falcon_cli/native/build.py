"""The kernels' library: compiled on first use for this processor, then kept in the cache.

Everything that shapes the machine code is part of the library's name (source, compiler, torch, processor), so that a
stale library is never loaded. A second process waits until the first one has compiled.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from falcon_cli.console import say
from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_folder, home, locked

SOURCE = Path(__file__).with_name("kernels")
"""The folder of C++ sources."""
FLAGS = ["-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-std=c++20"]
NEEDED = ("avx2", "fma")


class NoKernelsError(FalconError):
    """The kernels cannot run here; the text says why."""


@cache
def load_kernels() -> None:
    """Make `torch.ops.falcon` and `torch.classes.falcon` available; compile them if necessary.

    Raises:
        NoKernelsError: Another processor, no compiler, or the compiler fails.
    """
    missing = [flag for flag in NEEDED if flag not in _processor().split()]
    if missing:
        raise NoKernelsError(f"this processor has no {' and no '.join(missing)}")
    folder = home() / "native" / version()
    library = folder / "falcon_kernels.so"
    with locked(folder):
        if not library.is_file():
            return _compile(folder)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise NoKernelsError(f"{library} cannot be loaded ({error}); delete it to compile it again") from error


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bf16 numbers: then a model in bf16 is fast in bf16."""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(_processor().split())


def _compiler() -> list[str]:
    """The words that call the compiler; `CXX` may hold several, such as `ccache g++`."""
    named = os.environ.get("CXX", "").strip()
    words = shlex.split(named) or ["g++" if shutil.which("g++") else "c++"]
    missing = [word for word in words[:1] if shutil.which(word) is None]
    if missing:
        told = f"CXX names {missing[0]}, which is not there" if named else "g++"
        raise NoKernelsError(f"there is no C++ compiler ({told})")
    return words


@contextmanager
def _one_word(script: Path) -> Iterator[None]:
    """Put a script in the place of a compiler of several words while the block runs: torch takes `CXX` for one word."""
    words = _compiler()
    if len(words) == 1:
        yield
        return
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    changed = {"CXX": str(script), "TORCH_NO_COMPILER_WRAPPER": "1"}  # ccache must not call itself
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        script.unlink()


@cache
def _processor() -> str:
    """The instruction sets of this CPU, as Linux lists them; an empty string on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("flags")), "")


def version() -> str:
    """A name of the machine code. It differs for another source, compiler, torch or processor."""
    compiler = subprocess.run([*_compiler(), "--version"], capture_output=True, text=True, check=False).stdout
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
    """Build the library in a temporary folder, load it from there, then move the folder into place."""
    say("compiling the CPU kernels (once, about a minute)")
    try:
        from torch.utils.cpp_extension import load

        with atomic_folder(folder) as unfinished, _one_word(unfinished / "compiler"):
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
