"""The results document of a benchmark (`--json`, results.json), key by key."""

from typing import Any, TypedDict

from falcon_cli.target.reference.hold import ReferenceEntry


class LoopFree(TypedDict):
    """A method's or a peer's figures over text before its loop."""

    tokens: int
    tokens_per_second: float
    speedup: float | None
    speedup_ci95: list[float | None]
    loop_share: float
    """Share of the tokens after prefill that are in loops."""


class LoopFreeMethod(LoopFree):
    """The same of a method, whose cycles are known."""

    tokens_per_cycle: float
    acceptance_rate: float


class CategoryFigures(TypedDict):
    """A method's figures on one category of questions."""

    speedup: float | None
    tokens_per_cycle: float


class DivergenceEntry(TypedDict):
    """The first token at which an answer leaves plain decoding's."""

    prompt: str
    turn: int
    repeat: int
    position: int
    margin: float | None


class CertificateEntry(TypedDict):
    """The certificate of one method."""

    verdict: str
    """`exact`, `near-ties` or `FAILED`."""
    by_construction: bool
    prompts_exact: int
    prompts: int
    tolerance: float
    divergences: list[DivergenceEntry]


class SpeedFigures(TypedDict):
    """What methods and peers have in common; None is a figure that does not exist."""

    tokens: int
    decode_seconds: float
    prefill_seconds: float
    tokens_per_second: float
    speedup: float | None
    speedup_ci95: list[float | None]


class Certified(TypedDict, total=False):
    """What is known of a method once its answers are compared with plain decoding's."""

    lossless: CertificateEntry
    peak_memory_bytes: int | None
    """None where no system tells."""


class MethodFigures(SpeedFigures, Certified):
    """One method."""

    loop_free: LoopFreeMethod
    draft_seconds: float
    verify_seconds: float
    cycles: int
    accepted_length: float
    """τ."""
    tokens_per_cycle: float
    acceptance_rate: float
    """α."""
    accepted_by_depth: list[float]
    by_category: dict[str, CategoryFigures]


class Compared(TypedDict, total=False):
    """What is known of a peer once its answers are compared with plain decoding's."""

    prompts_equal: int
    """Prompts that it answered as plain decoding did."""


class PeerFigures(SpeedFigures, Compared):
    """One peer, whose cycles nobody knows."""

    loop_free: LoopFree


class Figures(TypedDict):
    """Methods and peers by name."""

    methods: dict[str, MethodFigures]
    peers: dict[str, PeerFigures]


class Referenced(TypedDict, total=False):
    """What documents of earlier days do not have."""

    reference: ReferenceEntry | None
    """Plain decoding of the first prompt, held against `transformers.generate`."""


class ResultsDocument(Figures, Referenced):
    """One run."""

    schema: int
    target: str
    dataset: str
    prompts: int
    settings: dict[str, Any]
    """The recipe's settings as they were resolved."""
    machine: dict[str, Any]
    """Provenance, and the memory bandwidth's bound."""
