"""A tiny model with a tokenizer, saved as a transformers folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["<unk>", "<s>", "</s>", *(f"word{number}" for number in range(45))]


@pytest.fixture
def saved_model(tiny_model: Callable[..., Any], tmp_path: Path) -> Path:
    """The folder of a tiny Llama (fp32, seed 0) and its tokenizer."""
    import torch
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    folder = tmp_path / "tiny"
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    return folder
