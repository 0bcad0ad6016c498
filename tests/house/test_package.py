"""What an installed falcon needs beside its Python files is named in pyproject.toml."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_data_file_of_the_package_is_installed_with_it():
    package = ROOT / "falcon_cli"
    (patterns,) = re.findall(r"^falcon_cli = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    named = {path for pattern in ast.literal_eval(patterns) for path in package.glob(pattern)}
    held = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert held == named


def test_the_readers_of_tokenizer_model_files_are_installed_with_it():
    """Nothing of falcon's imports them; transformers does."""
    text = (ROOT / "pyproject.toml").read_text()
    (needed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert {"sentencepiece", "protobuf"} <= set(re.findall(r'"([\w.-]+)>=', needed))
