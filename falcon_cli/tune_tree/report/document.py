"""What a tuning found, and the document that tells it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from falcon_cli.drafters.shared.copy_first import NGRAM
from falcon_cli.recipe.provenance import provenance
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree
from falcon_cli.tune_tree.measure.cost_table import CostTable
from falcon_cli.tune_tree.measure.validation import PLAIN, MeasuredSpeed
from falcon_cli.tune_tree.search.candidates import DrafterProfile, TreeCandidate, frontier
from falcon_cli.tune_tree.search.copies import CopyCandidate

CURRENT = "tree so far"
BUILT_IN = "built-in tree"
"""What a drafter without a tree is given."""
COPIES_SO_FAR = "copies so far"
DYNAMIC = "dynamic"
"""The first finalist's budget, its nodes chosen in every cycle."""


@dataclass(frozen=True)
class Tuning:
    """Everything that one tuning found."""

    recipe: TuneTreeRecipe
    setting: Setting
    table: CostTable
    context: float
    """Tokens before a draft, on average."""
    profiles: Mapping[int, DrafterProfile]
    """k → its ranks."""
    found: tuple[TreeCandidate, ...]
    finalists: tuple[TreeCandidate, ...]
    """Fastest first, as predicted."""
    others: Mapping[str, TreeCandidate]
    """Trees that run beside them: the one that --tree auto took before, and the built-in one."""
    folder: Path
    measured: Mapping[str, MeasuredSpeed] = field(default_factory=dict)
    """Contender → its runs; empty where the costs are another machine's."""
    copy_candidates: Mapping[str, CopyCandidate] = field(default_factory=dict)
    """Ways of copying that run beside them, the one that copy=auto took before among them."""
    tree: StoredTree | None = None
    """The winner as written."""
    drafter: str = ""
    """Folder of the winner's drafter."""
    argv: tuple[str, ...] = ()

    @property
    def plain_predicted(self) -> float:
        """Tokens a second of plain decoding, by the cost table."""
        return 1000 / self.table.plain_ms(self.context)

    @property
    def contenders(self) -> dict[str, TreeCandidate]:
        """Trees that ran, by name."""
        trees = {name_of(one): one for one in self.finalists}
        if DYNAMIC in self.measured:
            trees[DYNAMIC] = self.finalists[0]
        return {**trees, **self.others}

    def speed(self, name: str) -> float:
        """Tokens a second of a contender, by prediction where none ran."""
        if self.measured:
            return self.measured[name].tokens_per_second
        if name == PLAIN:
            return self.plain_predicted
        return (self.contenders.get(name) or self.copy_candidates[name]).tokens_per_second

    @property
    def winner_name(self) -> str | None:
        """The fastest tree; None where plain decoding is faster."""
        best = max(self.contenders, key=self.speed, default=PLAIN)
        return best if self.speed(best) > self.speed(PLAIN) else None

    @property
    def winner(self) -> TreeCandidate | None:
        """The tree of that name."""
        return None if self.winner_name is None else self.contenders[self.winner_name]

    @property
    def k(self) -> int:
        """Of the winner's drafter; of the first one where plain decoding is faster."""
        return next(iter(self.profiles)) if self.winner is None else self.winner.k

    @property
    def copier_name(self) -> str | None:
        """The fastest way of copying beside that drafter; None where the winner alone is faster."""
        alone = self.winner_name or PLAIN
        best = max(
            (name for name, one in self.copy_candidates.items() if one.k == self.k), key=self.speed, default=alone
        )
        return best if self.speed(best) > self.speed(alone) else None

    @property
    def copying(self) -> CopyPolicy | None:
        """What `falcon:copy=auto` does from now on; None where nothing was tried."""
        if self.copier_name is not None:
            return self.copy_candidates[self.copier_name].copying
        shape = TreeShape(()) if self.winner is None else self.winner.shape
        return CopyPolicy(NGRAM, 0, shape) if self.copy_candidates else None


def name_of(one: TreeCandidate) -> str:
    """What a finalist is called in tables and logs."""
    return f"k = {one.k}, {one.nodes} node{'s'[: one.nodes > 1]}, {one.passes} pass{'es' if one.passes > 1 else ''}"


def document(tuning: Tuning) -> dict[str, Any]:
    """The results document (`--json`)."""
    winner, measured = tuning.winner, tuning.measured
    return {
        "schema": 1,
        "winner": {"decode": "plainly"} if winner is None else _winner(tuning, winner),
        "finalists": [_line(name_of(one), one, measured) for one in tuning.finalists],
        "plain": {
            "predicted_tokens_per_second": _short(tuning.plain_predicted),
            "measured_tokens_per_second": _short(measured[PLAIN].tokens_per_second) if measured else None,
        },
        "others": {name: _line(name, one, measured) for name, one in tuning.others.items()},
        "dynamic": _line(DYNAMIC, tuning.finalists[0], measured) if DYNAMIC in measured else None,
        "copying": None if tuning.copying is None else _copying(tuning, tuning.copying),
        "copiers": {name: _line(name, one, measured) for name, one in tuning.copy_candidates.items()},
        "frontier": [_line("", one, {}) for one in frontier(tuning.found)],
        "lossless": all(one.alike == one.prompts for one in measured.values()) if measured else None,
        "calibration": {
            "dataset": tuning.recipe.dataset,
            "drafts": {
                str(k): sum(p.complete for t in one.texts for p in t.paths) for k, one in tuning.profiles.items()
            },
            "weight": {str(k): one.weight for k, one in tuning.profiles.items()},
            "context": _short(tuning.context),
        },
        "cost": {
            "device": tuning.table.device,
            "target": tuning.table.target,
            "weights": tuning.table.weights,
            "verify_ms": {
                str(c): {str(n): _short(ms) for n, ms in row.items()} for c, row in tuning.table.verify.items()
            },
            "rest_ms": _short(tuning.table.rest),
        },
        "setting": str(tuning.setting),
        "drafter": Path(tuning.drafter).name,
        "machine": provenance(tuning.argv),
    }


def to_json_line(tuning: Tuning) -> str:
    """The results document as one line."""
    return json.dumps(document(tuning), allow_nan=False, ensure_ascii=False)


def _winner(tuning: Tuning, one: TreeCandidate) -> dict[str, Any]:
    outcome = tuning.measured.get(str(tuning.winner_name))
    return {
        **_line(str(tuning.winner_name), one, tuning.measured),
        "speedup": _short(outcome.speedup) if outcome else None,
        "paths": [list(path) for path in one.shape.paths],
    }


def _copying(tuning: Tuning, one: CopyPolicy) -> dict[str, Any]:
    name = tuning.copier_name or tuning.winner_name or PLAIN
    return {
        "ngram": one.ngram,
        "tokens": one.tokens,
        "paths": [list(path) for path in one.shape.paths],
        "tokens_per_second": _short(tuning.speed(name)),
        "speedup": _short(tuning.speed(name) / tuning.speed(PLAIN)),
    }


def _line(name: str, one: TreeCandidate | CopyCandidate, measured: Mapping[str, MeasuredSpeed]) -> dict[str, Any]:
    outcome = measured.get(name)
    told: dict[str, Any] = {"nodes": one.nodes, "k": one.k}
    if isinstance(one, TreeCandidate):
        told["passes"] = one.passes
    else:
        told |= {"ngram": one.copying.ngram, "copied": one.copying.tokens}
    return told | {
        "predicted_tokens_per_second": _short(one.tokens_per_second),
        "measured_tokens_per_second": _short(outcome.tokens_per_second) if outcome else None,
        "predicted_tokens_per_cycle": _short(one.tokens_per_cycle),
        "measured_tokens_per_cycle": _short(outcome.tokens_per_cycle) if outcome else None,
    }


def _short(value: float) -> float:
    return round(value, 4)
