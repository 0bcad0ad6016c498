"""A folder of small wheels that stands in for a package index."""

import hashlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from falcon_cli.sources import wheels

BuildWheel = Callable[[str, dict[str, bytes | str]], tuple[str, int]]
COPY = "import os, shutil, sys; os.mkdir(sys.argv[1]); shutil.copy(*sys.argv[:0:-1])"


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the wheels lie; falcon's home is a folder of its own."""
    monkeypatch.setenv("FALCON_HOME", str(tmp_path / "home"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def build_wheel(wheelhouse: Path) -> BuildWheel:
    """Makes version 1.0 of a package of these files; gives the wheel's sha256 and size."""

    def build(package: str, files: dict[str, bytes | str]) -> tuple[str, int]:
        name = package.replace("-", "_")
        path = wheelhouse / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for member, content in files.items():
                wheel.writestr(member, content)
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL",
                "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
        return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size

    return build


@pytest.fixture
def pip(wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for pip with a program that copies the wheel; returns the calls made."""
    calls: list[str] = []

    def command(wheel: wheels.Wheel, folder: Path) -> list[str]:
        calls.append(wheel.package)
        archive = wheelhouse / f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
        return [sys.executable, "-c", COPY, str(folder), str(archive)]

    monkeypatch.setattr(wheels, "_pip_command", command)
    return calls
