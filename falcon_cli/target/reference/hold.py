"""Hold falcon's plain decoding against the model's own words: the certificate of everything below the drafts.

Where the ids part, the model's own logits decide: a gap within the dtype's rounding is a near-tie, and what follows is
compared with the model's text read by force, token for token. Any larger gap is a failure.
"""

from collections.abc import Sequence
from math import isfinite
from typing import TypedDict

import torch

from falcon_cli.core import Draft
from falcon_cli.decode.verify import pick, verify
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.target.reference.ask import TOKENS, Reference
from falcon_cli.target.reference.force import ForcedReference

TOLERANCE = {"fp32": 1e-4, "bf16": 0.25, "fp16": 0.03}
"""Largest gap between two logits that rounding explains: fp32 set well over ~1e-5; two units in the last place of a
logit of 16 to 32 for bf16 (2 · 2⁻⁷ · 16 = 0.25) and fp16 (2 · 2⁻¹⁰ · 16 ≈ 0.03)."""


class ReferenceEntry(TypedDict):
    """What became of the comparison with the model's own words."""

    verdict: str | None
    """`equal`, `near-tie` or `FAILED`; None where there is none."""
    position: int | None
    """Index of the new token at which the two part; of a failure, the one that fails."""
    margin: float | None
    """Gap between the two tokens' logits there, by the model's own; None where it is not known."""
    agreement: float | None
    """Of other weights than the model's own: the share of tokens, read by force, on which both agree."""
    tokens: int
    """New tokens that were compared."""
    prompt: str
    """The question's id."""
    reason: str | None
    """Why there was nothing to compare with."""


class _Agreement(TypedDict):
    agreement: float
    tokens: int


def hold(target: LoadedTarget, ids: Sequence[int], prompt: str) -> ReferenceEntry:
    """Hold an answer to the reference's prompt against the reference.

    Args:
        target: With its reference.
        ids: Falcon's answer; it may be cut short, or go on.
        prompt: The question's id.

    Raises:
        FalconError: The target's scores are not finite numbers.
    """
    reference = target.reference
    assert reference is not None, "load_target was given no prompt"
    entry: ReferenceEntry = {
        "verdict": None,
        "position": None,
        "margin": None,
        "agreement": None,
        "tokens": 0 if isinstance(reference, ForcedReference) else min(len(ids), len(reference.ids)),
        "prompt": prompt,
        "reason": reference.reason,
    }
    if reference.reason is not None:
        return entry
    if isinstance(reference, ForcedReference):
        own = list(ids[:TOKENS])
        return {**entry, **_agreement(own, reference.choices(own))}
    if not _same_numbers(target):
        return {**entry, **_agreement(_followed(target.model, reference), reference.ids)}
    tolerance = TOLERANCE[target.dtype]
    partings = _partings(reference, ids)[:1]
    if partings and partings[0][1] <= tolerance:
        later = _partings(reference, _followed(target.model, reference))
        partings += [parting for parting in later if parting[0] > partings[0][0]]
    if not partings:
        return {**entry, "verdict": "equal"}
    failing = [parting for parting in partings if not parting[1] <= tolerance]
    position, margin = (failing or partings)[0]
    return {
        **entry,
        "verdict": "FAILED" if failing else "near-tie",
        "position": position,
        "margin": margin if isfinite(margin) else None,
    }


def told(entry: ReferenceEntry) -> str:
    """The comparison in one line."""
    if entry["reason"] is not None:
        return f"reference: none, {entry['reason']}"
    if entry["agreement"] is not None:
        agreed = round(entry["agreement"] * entry["tokens"])
        return f"reference: {agreed} of {entry['tokens']} tokens are transformers' choice (other weights: no verdict)"
    if entry["position"] is None:
        return f"reference: {entry['verdict']} ({entry['tokens']} tokens of transformers.generate)"
    margin = "" if entry["margin"] is None else f" (margin {entry['margin']:.2g})"
    return f"reference: {entry['verdict']} at token {entry['position']}{margin}"


def _agreement(ours: Sequence[int], theirs: Sequence[int]) -> _Agreement:
    pairs = list(zip(ours, theirs, strict=True))
    return {"agreement": sum(own == other for own, other in pairs) / len(pairs), "tokens": len(pairs)}


def _same_numbers(target: LoadedTarget) -> bool:
    """Whether falcon computes with the weights and in the dtype of the reference, up to the order of sums."""
    native = target.model.native
    return native is None or (native.kind == "fp32" and target.dtype == "fp32")


def _partings(reference: Reference, ids: Sequence[int]) -> list[tuple[int, float]]:
    """Positions at which these ids are not the reference's, with the gap between the two tokens."""
    pairs = enumerate(zip(ids, reference.ids, strict=False))
    return [(place, reference.gap(place, own)) for place, (own, theirs) in pairs if own != theirs]


def _followed(target: TargetModel, reference: Reference) -> list[int]:
    """The target's choice for each of the reference's tokens, after those before it."""
    first = pick(target.prefill(torch.tensor(reference.prompt, device=target.device)))
    if len(reference.ids) == 1:
        return [first]
    draft = Draft.chain(reference.ids[:-1], target.device)
    return [first, *verify(draft, target.score(draft)).choices]
