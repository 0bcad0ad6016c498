"""Helpers for references: greedy text by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_home(home: Path) -> None:
    """Files are converted into a home of the test's own."""


@pytest.fixture
def greedy() -> Callable[..., list[int]]:
    """The likeliest token after each text, one forward each: `greedy(model, prompt, tokens)`."""

    def answer(model: Any, prompt: list[int], tokens: int) -> list[int]:
        text = list(prompt)
        for _ in range(tokens):
            with torch.no_grad():
                text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        return text[len(prompt) :]

    return answer
