"""GGUF files and their models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Files are converted into a home of the test's own."""


@pytest.fixture
def loaded() -> Callable[[Path], Any]:
    """Convert a GGUF file and load the result by transformers alone, in fp32."""

    def load(path: Path) -> Any:
        from transformers import AutoModelForCausalLM

        from falcon_cli.target.gguf import converted

        return AutoModelForCausalLM.from_pretrained(converted(path), dtype=torch.float32).eval()

    return load


@pytest.fixture
def logits_of() -> Callable[[Any], torch.Tensor]:
    """A model's logits for a text of 60 tokens."""

    def logits(model: Any) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.arange(60)[None] * 7 % 48).logits[0]

    return logits
