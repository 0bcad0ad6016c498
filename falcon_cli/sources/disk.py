"""Files that appear whole or not at all: temporary names, locks, and what is wrong with a disk in one line."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from falcon_cli.console import say
from falcon_cli.errors import FalconError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_PIECE = 1 << 20  # bytes read at a time
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}


def home() -> Path:
    """Return the folder of everything falcon fetches or converts: `$FALCON_HOME`, else `~/.cache/falcon`."""
    return Path(os.environ.get("FALCON_HOME") or "~/.cache/falcon").expanduser().absolute()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def atomic_file(final: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a path beside `final` to write to; it becomes `final` on success and is removed on any failure.

    The yielded path's parent is a fresh folder that goes away with the block, free for other temporary files.

    Args:
        final: where the file shall be; an older file there is replaced.
        needed: bytes of disk the block takes, for the error message.

    Raises:
        FalconError: the disk is full, or the place cannot be written.
    """
    with _workspace(final, needed) as folder:
        new = folder / final.name
        yield new
        os.replace(new, final)


@contextmanager
def atomic_folder(final: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield an empty folder beside `final` to fill; it becomes `final` on success and is removed on any failure.

    Args:
        final: where the folder shall be; an older folder there is replaced, and stays until the new one is whole.
        needed: bytes of disk the block takes, for the error message.

    Raises:
        FalconError: the disk is full, or the place cannot be written.
    """
    with _workspace(final, needed) as folder:
        new, old = folder / "new", folder / "old"
        new.mkdir()
        yield new
        if not final.exists():
            os.replace(new, final)
            return
        os.replace(final, old)  # a folder cannot be renamed over one that holds files
        try:
            os.replace(new, final)
        except BaseException:
            os.replace(old, final)
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` against other processes; says a line when it has to wait for one.

    Raises:
        FalconError: the lock cannot be made beside `path`.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another falcon that is making {path.name}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_room(folder: Path, needed: int) -> None:
    """Make sure that a folder's disk has room for so many bytes; the folder is made where it is missing.

    Raises:
        FalconError: It has not, or the folder cannot be made.
    """
    with disk_errors(folder, needed):
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_disk_error(error: Exception) -> bool:
    """Whether `disk_errors` has a line for this error."""
    return _explain(error, home(), None) is not None


@contextmanager
def disk_errors(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk, a forbidden place or a file in a folder's place into one clear line.

    Raises:
        FalconError: in place of such an error; any other error passes.
    """
    try:
        yield
    except FalconError:
        raise
    except Exception as error:
        message = _explain(error, folder, needed)
        if message is None:
            raise
        raise FalconError(message) from error


def _explain(error: Exception, folder: Path, needed: int | None) -> str | None:
    code = error.errno if isinstance(error, OSError) else None
    where = getattr(error, "filename", None) or folder
    # safetensors and torch wrap the system's error in one of their own and leave only its text
    if code in _FULL or os.strerror(errno.ENOSPC) in str(error):
        amount = "" if needed is None else f" (about {needed / 1e6:,.0f} MB needed)"
        instead = "set FALCON_HOME to" if folder.is_relative_to(home()) else "choose"
        return f"no disk space left in {folder}{amount}: free some, or {instead} a folder on another disk"
    if code in _FORBIDDEN:
        return f"no permission to write {where}: choose another place, or set FALCON_HOME for falcon's own files"
    if code in _NOT_A_FOLDER:
        return f"{where} should be a folder and is not one, or is in use: move it, or choose another place"
    return None


@contextmanager
def _workspace(final: Path, needed: int | None) -> Iterator[Path]:
    """Yield a private folder on the disk of `final`, removed afterwards."""
    with disk_errors(final.parent, needed):
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".part", dir=final.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
