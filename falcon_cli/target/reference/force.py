"""The model's own choices after each token of an answer of falcon's, from one forward of its class.

A target whose weights stay in a file's blocks is too slow to generate by transformers: each forward makes numbers of
all weights anew. But one forward over prompt and answer tells what the model itself would have said at every position.
The choices are kept, so that they are asked for once.

Shapes: T rows of a forward, V vocabulary.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from falcon_cli.console import progress
from falcon_cli.decode.verify import NOT_FINITE
from falcon_cli.errors import FalconError
from falcon_cli.native.quantized import QuantizedLinear
from falcon_cli.sources import atomic_file, disk_errors, home
from falcon_cli.target.forward.own import arguments_of


@dataclass(frozen=True)
class ForcedReference:
    """A model that can be asked what it would say at each position of an answer to one prompt."""

    prompt: list[int]
    weights: str
    """A name of the model's weights and configuration."""
    make: Callable[[], Any]
    """Makes transformers' causal LM, untouched."""
    reason: str | None = None
    """Why it cannot be asked."""

    def choices(self, ids: Sequence[int]) -> list[int]:
        """The model's own choice at each position of an answer, as it was kept or read now.

        Raises:
            FalconError: Its scores are not finite numbers; the cache cannot be written.
        """
        file = home() / "references" / f"{self._key(ids)}.json"
        known = _read(file, len(ids))
        if known is not None:
            return known
        found = _choices(self.make(), self.prompt, ids)
        with disk_errors(file.parent), atomic_file(file) as unfinished:
            unfinished.write_text(json.dumps(found), encoding="utf-8")
        return found

    def _key(self, ids: Sequence[int]) -> str:
        import transformers

        parts = ["forced", self.weights, transformers.__version__, torch.__version__, self.prompt, list(ids)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


@torch.inference_mode()
def _choices(model: Any, prompt: list[int], ids: Sequence[int]) -> list[int]:
    text = torch.tensor([[*prompt, *ids[:-1]]])
    takes, _ = arguments_of(model)
    given: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in takes:
        given["logits_to_keep"] = len(ids)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    title = "reading the answer by transformers' own forward, with fp32 numbers made of all weights (once)"
    with progress(title, len(layers), "matrices") as bar:

        def note(module: Any, rows: Any, outputs: Tensor) -> None:
            bar.advance()

        for layer in layers:
            layer.register_forward_hook(note)
        logits_TV = model(input_ids=text, **given).logits[0, -len(ids) :]
    best = logits_TV.float().max(-1)
    if not best.values.isfinite().all():
        raise FalconError(NOT_FINITE)
    choices: list[int] = best.indices.tolist()
    return choices


def _read(file: Path, count: int) -> list[int] | None:
    """Kept choices; None where there are none, or they are damaged."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(found, list) and len(found) == count and all(isinstance(token, int) for token in found)
    return found if whole else None
