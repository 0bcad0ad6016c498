"""The model's own words: what `transformers.generate` says to one prompt, asked once and kept.

It is asked for while the model is still as transformers loaded it, on its own attention, so no second copy of the
weights is ever in memory. Each token comes with the model's own logits, which alone tell a near-tie: falcon's would
excuse a wrong model.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from falcon_cli.console import say
from falcon_cli.decode.verify import NOT_FINITE
from falcon_cli.errors import FalconError, first_line
from falcon_cli.native.quantized import rows_of
from falcon_cli.sources import atomic_file, disk_errors, home
from falcon_cli.target.model import context_of
from falcon_cli.target.reference.plain import generate
from falcon_cli.target.reference.weights import fingerprint

TOKENS = 32
"""The most tokens of a reference."""
_LIKELIEST = 32
"""Logits that are kept for each token."""

PromptOf = Callable[[Any], list[int]]
"""Tokenizer → the ids of the prompt to ask."""


@dataclass(frozen=True)
class Reference:
    """The model's own answer to one prompt, or the reason why there is none."""

    prompt: list[int]
    ids: list[int]
    """At most `TOKENS` new tokens; a stop token is the last."""
    logits: list[dict[str, float]]
    """For each of the ids the logits of the likeliest tokens; keys are token ids, as JSON writes them."""
    reason: str | None = None
    """Why the model was not asked."""

    def gap(self, position: int, token: int) -> float:
        """How far a token's logit lies from the model's own choice; infinite for one not among the likeliest."""
        logits = self.logits[position]
        return max(logits.values()) - logits.get(str(token), float("-inf"))


def ask(model: Any, prompt: list[int], stop_ids: frozenset[int]) -> Reference:
    """The model's answer to a prompt: as it was kept, or asked for now.

    Args:
        model: transformers' causal LM, untouched.
        prompt: Token ids.
        stop_ids: They end the answer.

    Raises:
        FalconError: The model's scores are not finite; the cache cannot be written.
    """
    if (reason := unanswerable(model, prompt)) is not None:
        return Reference(prompt, [], [], reason)
    tokens = min(TOKENS, _context(model) - len(prompt))
    file = home() / "references" / f"{_key(model, prompt, stop_ids)}.json"
    known = _read(file)
    if known is not None:
        return known
    say(f"asking transformers.generate for {tokens} tokens to compare with (once)")
    try:
        told = generate(model, prompt, stop_ids, tokens, {"return_dict_in_generate": True, "output_logits": True})
    except Exception as error:  # whatever a model's own code raises
        return Reference(prompt, [], [], f"transformers.generate fails ({first_line(error)})")
    reference = Reference(prompt, told.sequences[0, len(prompt) :].tolist(), [_likeliest(row) for row in told.logits])
    if type(model).__module__.startswith("transformers."):  # a model's own code may change without its weights
        with disk_errors(file.parent), atomic_file(file) as unfinished:
            unfinished.write_text(json.dumps(asdict(reference)), encoding="utf-8")
    return reference


def unanswerable(model: Any, prompt: list[int]) -> str | None:
    """Why a model cannot answer a prompt; None where it can."""
    if not prompt or len(prompt) >= _context(model):
        return "the first prompt does not fit the context"
    if max(prompt) >= len(rows_of(model.get_input_embeddings())):
        return "the first prompt has a token that the model's embedding has not"
    return None


def _context(model: Any) -> int:
    return context_of(model.config.get_text_config(decoder=True))


def _likeliest(logits_1V: torch.Tensor) -> dict[str, float]:
    best = logits_1V[0].float().topk(min(_LIKELIEST, logits_1V.shape[-1]))
    if not best.values[0].isfinite():
        raise FalconError(NOT_FINITE)
    return dict(zip(map(str, best.indices.tolist()), best.values.tolist(), strict=True))


def _key(model: Any, prompt: list[int], stop_ids: frozenset[int]) -> str:
    """A name of everything that the answer depends on."""
    import transformers

    versions = [transformers.__version__, torch.__version__]
    place = [str(model.dtype), model.device.type, model.config._attn_implementation]
    parts = [fingerprint(model), *place, *versions, TOKENS, prompt, sorted(stop_ids)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _read(file: Path) -> Reference | None:
    """A kept reference; None where there is none, or it is damaged."""
    try:
        return Reference(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
