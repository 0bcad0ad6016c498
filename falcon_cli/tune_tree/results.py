"""What a tuning found, and the document that tells it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from falcon_cli.drafter.copying import NGRAM
from falcon_cli.recipe.provenance import provenance
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.setting import Setting
from falcon_cli.tree.store import StoredTree
from falcon_cli.tune_tree.copies import Copying
from falcon_cli.tune_tree.cost import CostTable
from falcon_cli.tune_tree.proof import PLAIN, Outcome
from falcon_cli.tune_tree.search import Candidate, Drafting, frontier

CURRENT = "tree so far"
BUILT_IN = "built-in tree"
"""What a drafter without a tree is given."""
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
    draftings: Mapping[int, Drafting]
    """k → its ranks."""
    found: tuple[Candidate, ...]
    finalists: tuple[Candidate, ...]
    """Fastest first, as predicted."""
    others: Mapping[str, Candidate]
    """Trees that run beside them: the one that --tree auto took before, and the built-in one."""
    folder: Path
    measured: Mapping[str, Outcome] = field(default_factory=dict)
    """Contender → its runs; empty where the costs are another machine's."""
    copying: Copying | None = None
    """What `falcon:copy=3` had best do beside the winner."""
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
    def contenders(self) -> dict[str, Candidate]:
        """Trees that ran, by name."""
        trees = {name_of(one): one for one in self.finalists}
        if DYNAMIC in self.measured:
            trees[DYNAMIC] = self.finalists[0]
        return {**trees, **self.others}

    @property
    def winner_name(self) -> str | None:
        """The tree that ran fastest, by prediction where none ran; None where plain decoding is faster."""

        def speed(name: str) -> float:
            return self.measured[name].tokens_per_second if self.measured else self.contenders[name].tokens_per_second

        best = max(self.contenders, key=speed, default=None)
        plain = self.measured[PLAIN].tokens_per_second if self.measured else self.plain_predicted
        return best if best is not None and speed(best) > plain else None

    @property
    def winner(self) -> Candidate | None:
        """The tree of that name."""
        return None if self.winner_name is None else self.contenders[self.winner_name]


def name_of(one: Candidate) -> str:
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
        "copying": None if tuning.copying is None else _copying(tuning.copying),
        "frontier": [_line("", one, {}) for one in frontier(tuning.found)],
        "lossless": all(one.alike == one.prompts for one in measured.values()) if measured else None,
        "calibration": {
            "dataset": tuning.recipe.dataset,
            "drafts": {str(k): sum(p.whole for t in one.texts for p in t.paths) for k, one in tuning.draftings.items()},
            "weight": {str(k): one.weight for k, one in tuning.draftings.items()},
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


def _winner(tuning: Tuning, one: Candidate) -> dict[str, Any]:
    outcome = tuning.measured.get(str(tuning.winner_name))
    return {
        **_line(str(tuning.winner_name), one, tuning.measured),
        "speedup": _short(outcome.speedup) if outcome else None,
        "paths": [list(path) for path in one.shape.paths],
    }


def _copying(one: Copying) -> dict[str, Any]:
    return {"ngram": NGRAM, "tokens": one.length, "predicted_tokens_per_second": _short(one.tokens_per_second)}


def _line(name: str, one: Candidate, measured: Mapping[str, Outcome]) -> dict[str, Any]:
    outcome = measured.get(name)
    return {
        "nodes": one.nodes,
        "passes": one.passes,
        "k": one.k,
        "predicted_tokens_per_second": _short(one.tokens_per_second),
        "measured_tokens_per_second": _short(outcome.tokens_per_second) if outcome else None,
        "predicted_tokens_per_cycle": _short(one.tokens_per_cycle),
        "measured_tokens_per_cycle": _short(outcome.tokens_per_cycle) if outcome else None,
    }


def _short(value: float) -> float:
    return round(value, 4)
