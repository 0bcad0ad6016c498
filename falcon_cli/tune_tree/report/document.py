"""The results document of a tuning (`--json`)."""

import json
from collections.abc import Mapping
from typing import Any

from falcon_cli.recipe.provenance import provenance
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.validation import PLAIN, MeasuredSpeed
from falcon_cli.tune_tree.result import TuningResult
from falcon_cli.tune_tree.search.candidates import DrafterProfile, TreeCandidate, frontier
from falcon_cli.tune_tree.search.copies import CopyCandidate
from falcon_cli.tune_tree.search.search import DYNAMIC


def document(result: TuningResult) -> dict[str, Any]:
    """The results document."""
    winner, measured, search, costs = result.winner, result.measured, result.search, result.search.costs
    return {
        "schema": 1,
        "winner": {"decode": "plainly"} if winner is None else _winner(result, winner),
        "finalists": [_line(tree.name, tree, measured) for tree in search.finalists],
        "plain": {
            "predicted_tokens_per_second": _short(search.plain_tokens_per_second),
            "measured_tokens_per_second": _short(measured[PLAIN].tokens_per_second) if measured else None,
        },
        "others": {name: _line(name, tree, measured) for name, tree in search.other_trees.items()},
        "dynamic": _line(DYNAMIC, search.finalists[0], measured) if DYNAMIC in measured else None,
        "copying": None if result.copy_policy is None else _copying(result, result.copy_policy),
        "copiers": {name: _line(name, copies, measured) for name, copies in search.copy_candidates.items()},
        "frontier": [_line("", tree, {}) for tree in frontier(search.trees)],
        "lossless": all(speed.alike == speed.prompts for speed in measured.values()) if measured else None,
        "calibration": {
            "dataset": result.recipe.dataset,
            "drafts": {str(k): _drafts(profile) for k, profile in search.profiles.items()},
            "weight": {str(k): profile.weight for k, profile in search.profiles.items()},
            "context": _short(search.context),
        },
        "cost": {
            "device": costs.device,
            "target": costs.target,
            "weights": costs.weights,
            "verify_ms": {str(c): {str(n): _short(ms) for n, ms in row.items()} for c, row in costs.verify.items()},
            "rest_ms": _short(costs.rest),
        },
        "setting": str(result.setting),
        "drafter": result.drafter.folder.name,
        "machine": provenance(result.argv),
    }


def to_json_line(result: TuningResult) -> str:
    """The results document as one line."""
    return json.dumps(document(result), allow_nan=False, ensure_ascii=False)


def _winner(result: TuningResult, tree: TreeCandidate) -> dict[str, Any]:
    measured = result.measured.get(str(result.winner_name))
    return {
        **_line(str(result.winner_name), tree, result.measured),
        "speedup": _short(measured.speedup) if measured else None,
        "paths": [list(path) for path in tree.shape.paths],
    }


def _copying(result: TuningResult, policy: CopyPolicy) -> dict[str, Any]:
    name = result.copy_name or result.winner_name or PLAIN
    return {
        "ngram": policy.ngram,
        "tokens": policy.tokens,
        "paths": [list(path) for path in policy.shape.paths],
        "tokens_per_second": _short(result.speed(name)),
        "speedup": _short(result.speed(name) / result.speed(PLAIN)),
    }


def _line(name: str, contender: TreeCandidate | CopyCandidate, speeds: Mapping[str, MeasuredSpeed]) -> dict[str, Any]:
    measured = speeds.get(name)
    line: dict[str, Any] = {"nodes": contender.nodes, "k": contender.k}
    if isinstance(contender, TreeCandidate):
        line["passes"] = contender.passes
    else:
        line |= {"ngram": contender.policy.ngram, "copied": contender.policy.tokens}
    return line | {
        "predicted_tokens_per_second": _short(contender.tokens_per_second),
        "measured_tokens_per_second": _short(measured.tokens_per_second) if measured else None,
        "predicted_tokens_per_cycle": _short(contender.tokens_per_cycle),
        "measured_tokens_per_cycle": _short(measured.tokens_per_cycle) if measured else None,
    }


def _drafts(profile: DrafterProfile) -> int:
    """Drafts whose rank path is complete."""
    return sum(path.complete for text in profile.texts for path in text.paths)


def _short(value: float) -> float:
    return round(value, 4)
