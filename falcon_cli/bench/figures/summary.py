"""The results document's methods and peers, summed from a run's records.

Every figure comes twice, over all text and over loop-free text (docs/measuring.md). A figure that does not exist,
because nothing was decoded or the baseline was not run, is None.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.bench.figures.speedup import speedup, speedup_interval
from falcon_cli.data.loops import loop_start
from falcon_cli.decode.totals import Totals, counted

BASELINE = "ar"
"""Plain autoregression: what every speedup is measured against."""

ByQuestion = dict[str, Totals]


@dataclass(frozen=True)
class _Side:
    """One method's totals per question, beside the baseline's over the same stretch of text."""

    own: ByQuestion
    base: ByQuestion

    @property
    def totals(self) -> Totals:
        return sum(self.own.values(), Totals())

    def only(self, questions: Collection[str]) -> "_Side":
        return _Side({name: totals for name, totals in self.own.items() if name in questions}, self.base)

    def speedup(self) -> float | None:
        return _finite(speedup(*self._pairs()))

    def interval(self, seed: int) -> list[float | None]:
        return [_finite(bound) for bound in speedup_interval(*self._pairs(), seed=seed)]

    def _pairs(self) -> tuple[list[Totals], list[Totals]]:
        """Questions that both answered; an interrupted run's file has no others, a method added later may."""
        shared = [name for name in self.own if name in self.base]
        return [self.base[name] for name in shared], [self.own[name] for name in shared]


def summarise(
    records: Iterable[TurnRecord], baseline: str = BASELINE, *, peers: Collection[str] = (), seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Sum a run's records into {"methods": {NAME: figures}, "peers": {NAME: fewer figures}}.

    Repeats are pooled. A loop is looked for once per question and turn, in the baseline's ids (a method's own ids
    where the baseline has none), so both sides of a loop-free ratio end at the same token.

    Args:
        records: of all methods; a question must be wholly there or not at all.
        baseline: the method that speedups are measured against.
        peers: methods that are other people's engines; they have no draft or verification that we could time.
        seed: of the bootstrap.

    Returns:
        The "methods" and "peers" of the results document, in order of first appearance, without "lossless". Times in
        seconds, `loop_share` as a share of the tokens after prefill.
    """
    records = list(records)
    every = _by_method(records, {})
    free = _by_method(records, _loop_starts(records, baseline))
    categories: dict[str, set[str]] = defaultdict(set)
    for record in records:
        categories[record.category].add(record.question_id)
    document: dict[str, dict[str, dict[str, Any]]] = {"methods": {}, "peers": {}}
    for name in every:
        whole = _Side(every[name], every.get(baseline, {}))
        loop_free = _Side(free[name], free.get(baseline, {}))
        if name in peers:
            document["peers"][name] = _peer_figures(whole, loop_free, seed)
        else:
            document["methods"][name] = _method_figures(whole, loop_free, categories, seed)
            document["methods"][name]["peak_memory_bytes"] = _peak(records, name)
    return document


def _peak(records: Iterable[TurnRecord], method: str) -> int | None:
    """Most memory held while a method answered."""
    return max((record.peak_bytes or 0 for record in records if record.method == method), default=0) or None


_Ends = Mapping[tuple[str, str, int], int | None]
"""(method, question, turn) → the output index at which counting ends."""


def _loop_starts(records: list[TurnRecord], baseline: str) -> _Ends:
    heard: dict[tuple[str, str, int], list[int]] = {}
    for record in records:
        heard.setdefault((record.method, record.question_id, record.turn), record.completion.ids)
    starts = {key: loop_start(ids) for key, ids in heard.items() if key[0] == baseline}
    for (method, question, turn), ids in heard.items():
        reference = (baseline, question, turn)
        starts[method, question, turn] = starts[reference] if reference in starts else loop_start(ids)
    return starts


def _by_method(records: list[TurnRecord], ends: _Ends) -> dict[str, ByQuestion]:
    totals: dict[str, ByQuestion] = defaultdict(dict)
    for record in records:
        upto = ends.get((record.method, record.question_id, record.turn))
        so_far = totals[record.method].get(record.question_id, Totals())
        totals[record.method][record.question_id] = so_far + counted(record.completion, upto)
    return dict(totals)


def _method_figures(whole: _Side, loop_free: _Side, categories: Mapping[str, set[str]], seed: int) -> dict[str, Any]:
    totals, free = whole.totals, loop_free.totals
    return {
        "tokens": totals.tokens,
        "decode_seconds": totals.decode_seconds,
        "prefill_seconds": totals.prefill_seconds,
        "draft_seconds": totals.draft_seconds,
        "verify_seconds": totals.verify_seconds,
        "tokens_per_second": totals.tokens_per_second,
        "speedup": whole.speedup(),
        "speedup_ci95": whole.interval(seed),
        "cycles": totals.cycles,
        "accepted_length": totals.accepted_length,
        "tokens_per_cycle": totals.tokens_per_cycle,
        "acceptance_rate": totals.acceptance_rate,
        "accepted_by_depth": totals.accepted_by_depth,
        "loop_free": {
            **_loop_free_figures(whole, loop_free, seed),
            "tokens_per_cycle": free.tokens_per_cycle,
            "acceptance_rate": free.acceptance_rate,
        },
        "by_category": {
            category: {"speedup": part.speedup(), "tokens_per_cycle": part.totals.tokens_per_cycle}
            for category, questions in categories.items()
            if (part := whole.only(questions)).own
        },
    }


def _peer_figures(whole: _Side, loop_free: _Side, seed: int) -> dict[str, Any]:
    totals = whole.totals
    return {
        "tokens": totals.tokens,
        "decode_seconds": totals.decode_seconds,
        "prefill_seconds": totals.prefill_seconds,
        "tokens_per_second": totals.tokens_per_second,
        "speedup": whole.speedup(),
        "speedup_ci95": whole.interval(seed),
        "loop_free": _loop_free_figures(whole, loop_free, seed),
    }


def _loop_free_figures(whole: _Side, loop_free: _Side, seed: int) -> dict[str, Any]:
    tokens, every = loop_free.totals.tokens, whole.totals.tokens
    return {
        "tokens": tokens,
        "tokens_per_second": loop_free.totals.tokens_per_second,
        "speedup": loop_free.speedup(),
        "speedup_ci95": loop_free.interval(seed),
        "loop_share": 1 - tokens / every if every else 0.0,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
