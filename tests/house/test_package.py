"""What an installed falcon needs beside its Python files is named in pyproject.toml."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_data_file_of_the_package_is_installed_with_it():
    package = ROOT / "falcon_cli"
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["falcon_cli"]
    named = {path for pattern in patterns for path in package.glob(pattern)}
    held = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert held == named
