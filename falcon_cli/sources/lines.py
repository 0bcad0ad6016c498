"""Files that grow line by line and survive a kill in mid-write.

A line counts once its newline is on disk: a last line without one was torn by a kill or a full disk. Reading passes
over it, appending cuts it off.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


def append_line(path: Path, line: str) -> None:
    """Add a line and wait until it is on disk.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("a+b") as file:
        _drop_torn_line(file)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file; none if there is no file yet.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return lines


def json_lines(path: Path) -> Iterator[Any]:
    """The JSON values of a file's lines, one by one; a line that a kill cut short is passed over.

    Raises:
        OSError: The file cannot be read.
    """
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _drop_torn_line(file: BinaryIO) -> None:
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
