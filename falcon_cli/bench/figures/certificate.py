"""The losslessness certificate: every method's ids against plain decoding's.

On native kernels every row is summed in the same order whatever its neighbours are, so a tree is scored bit for bit
like its tokens one by one: output is exact by construction, and nothing is excused; ids are compared all the same.

Elsewhere, where they part, the text before is read afresh (teacher-forced, one prefill) and the two tokens are held
against the target's best. Scores of one token and of a whole tree come from differently shaped matrix products, whose
sums round differently: a gap within that rounding is a near-tie, the only excuse there is, and it is counted.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isfinite

import torch

from falcon_cli.bench.figures.document import CertificateEntry, DivergenceEntry
from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.decode.verify import check_finite
from falcon_cli.target.model import TargetModel
from falcon_cli.target.reference.hold import TOLERANCE

TokenIds = list[int]
PlainAnswer = Callable[[tuple[int, ...]], TokenIds]


@dataclass(frozen=True)
class Divergence:
    """The first token at which an answer leaves plain decoding's."""

    prompt: str
    turn: int
    repeat: int
    position: int
    """Index among the new tokens."""
    margin: float
    """Gap between the target's best logit and the worse of the two tokens', teacher-forced."""


@dataclass
class Certificate:
    """The verdict on one method."""

    tolerance: float
    prompts: set[str] = field(default_factory=set)
    divergences: list[Divergence] = field(default_factory=list)
    by_construction: bool = False
    """Whether the target's scores cannot depend on what is scored beside them."""

    @property
    def verdict(self) -> str:
        """`exact`, `near-ties` or `FAILED`."""
        if not self.divergences:
            return "exact"
        return "near-ties" if all(d.margin <= self.tolerance for d in self.divergences) else "FAILED"

    def to_json(self) -> CertificateEntry:
        """For the results document."""
        return {
            "verdict": self.verdict,
            "by_construction": self.by_construction,
            "prompts_exact": len(self.prompts - {divergence.prompt for divergence in self.divergences}),
            "prompts": len(self.prompts),
            "tolerance": self.tolerance,
            "divergences": [_plain(divergence) for divergence in self.divergences],
        }


def _plain(divergence: Divergence) -> DivergenceEntry:
    """JSON knows no infinity: a margin that nothing measures is None."""
    return {
        "prompt": divergence.prompt,
        "turn": divergence.turn,
        "repeat": divergence.repeat,
        "position": divergence.position,
        "margin": divergence.margin if isfinite(divergence.margin) else None,
    }


def first_difference(one: TokenIds, other: TokenIds) -> int | None:
    """Index of the first token in which two answers differ; an answer that ends early differs where it ends."""
    if one == other:
        return None
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def certify(
    records: Iterable[TurnRecord],
    target: TargetModel,
    dtype: str,
    reference: PlainAnswer,
) -> dict[str, Certificate]:
    """Certify every method of these records.

    Args:
        records: Answers of all methods.
        target: For re-scoring where answers part.
        dtype: The target's: fp32, bf16 or fp16; picks the tolerance.
        reference: Plain decoding's ids for a prompt.

    Returns:
        A certificate for each method.
    """
    certificates: dict[str, Certificate] = {}
    exact = target.native is not None and target.native.exact
    for record in records:
        certificate = certificates.setdefault(
            record.method, Certificate(0.0 if exact else TOLERANCE[dtype], by_construction=exact)
        )
        certificate.prompts.add(record.question_id)
        plain, ids = reference(record.prompt), record.completion.ids
        position = first_difference(plain, ids)
        if position is not None:
            margin = margin_at(
                target,
                [*record.prompt, *plain[:position]],
                [*plain[position : position + 1], *ids[position : position + 1]],
            )
            place = Divergence(record.question_id, record.turn, record.repeat, position, margin)
            certificate.divergences.append(place)
    return certificates


def margin_at(target: TargetModel, text: TokenIds, tokens: TokenIds) -> float:
    """How far the worst of these tokens lies below the target's best after this text, in logits.

    An answer that merely ends early has no second token; nothing excuses it, so its margin is infinite.

    Raises:
        FalconError: The target's scores are not finite numbers.
    """
    if len(tokens) < 2:
        return float("inf")
    scores = target.prefill(torch.tensor(text, device=target.device))
    check_finite(scores, [-1])
    logits_V = scores.logits_TV[-1].float()
    return float(logits_V.max() - logits_V[tokens].min())
