"""How a text is cut into words before byte pairs are merged: llama.cpp's table (`pre_tokenizers.yaml`)."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from falcon_cli.console import warn
from falcon_cli.target.gguf.file import GgufFile

_ANOTHER_KIND = {"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"}  # they do not merge bytes


@dataclass(frozen=True)
class PreTokenizer:
    """One entry of the table."""

    patterns: tuple[str, ...]
    """Regular expressions, applied one after the other; matches and what lies between them are words."""
    whole_words: bool
    """A word that is a token is that token, whatever the merges say."""
    begin_token: bool
    """A text begins with the begin token where the file does not say otherwise."""
    nfc: bool
    """Text is brought into Unicode's form NFC first."""

    def splitter(self) -> Any:
        """The same for `tokenizers`."""
        from tokenizers import Regex, pre_tokenizers

        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def pre_tokenizer_of(file: GgufFile) -> PreTokenizer:
    """What `tokenizer.ggml.pre` asks for; llama.cpp's default, with a warning, where nobody knows that name.

    Raises:
        FalconError: It asks for something other than merges of bytes.
    """
    name = file.get("tokenizer.ggml.pre")
    if name in _ANOTHER_KIND:
        raise file.refusal(f"tokenizer.ggml.pre is {name}: falcon has no such tokenizer")
    if name not in table():
        says = "is missing" if name is None else f'"{name}" is not known'
        warn(
            f"{file.path}: tokenizer.ggml.pre {says}, so texts are cut as llama.cpp cuts them by default; "
            "the model may have been trained on other tokens"
        )
    return table().get(name, table()["default"])


@cache
def table() -> dict[str, PreTokenizer]:
    """The value of `tokenizer.ggml.pre` → what it asks for."""
    found = yaml.safe_load(Path(__file__).with_name("pre_tokenizers.yaml").read_text(encoding="utf-8"))
    return {
        name: PreTokenizer(
            patterns=tuple(group["patterns"]),
            whole_words=name in found["whole words"],
            begin_token=name in found["begin token"],
            nfc=name in found["nfc"],
        )
        for group in found["splits"]
        for name in group["names"]
    }
