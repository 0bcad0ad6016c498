"""What a cycle costs on a machine: verifying a tree, drafting it, and the rest.

    {"device": "…", "target": "…", "weights": "fp32",
     "verify_ms": {"128": {"1": 17.9, "8": 24.0}, "1024": {…}},       context → nodes → milliseconds
     "draft_ms": {"2": {"first": 1.1, "pass": 0.5, "row": 0.1, "slot": 0.3, "feature": 0.05}},      k → parts
     "rest_ms": 0.2}

Between measured points costs are interpolated linearly. Beyond the last point they follow the last two, but never fall.
A draft costs `first` for reading what was accepted, `pass` and `row` times its rows for each further pass, `slot` and
`feature` times its features (what the LM head reads) for each depth of the tree.
"""

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_file
from falcon_cli.tree.passes import Pass


@dataclass(frozen=True)
class DraftCost:
    """Milliseconds of the parts of a draft."""

    first: float
    further: float
    """Each pass after the first; `pass` in files."""
    row: float
    """Each row of such a pass."""
    slot: float
    """Each depth: final norm, LM head and choice of tokens."""
    feature: float
    """Each feature that the head reads."""

    def of(self, passes: Sequence[Pass]) -> float:
        """Milliseconds of a whole draft; 0 without passes."""
        if not passes:
            return 0.0
        slots = [slot for tables in passes for slot in tables.slots]
        rows = sum(len(tables.parent_R) for tables in passes[1:])
        features = sum(len(slot.output_E) for slot in slots)
        return (
            self.first
            + self.further * (len(passes) - 1)
            + self.row * rows
            + self.slot * len(slots)
            + self.feature * features
        )


@dataclass(frozen=True)
class CostTable:
    """What cycles cost with a target and its drafters on one machine."""

    device: str
    target: str
    weights: str
    verify: Mapping[int, Mapping[int, float]]
    """Context → nodes (the root included) → milliseconds to score, judge and commit them."""
    draft: Mapping[int, DraftCost]
    """k → what a drafter's passes cost."""
    rest: float
    """Milliseconds of everything else in a cycle."""
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _contexts(self) -> list[int]:
        return sorted(self.verify)

    def verify_ms(self, nodes: float, context: float) -> float:
        """Milliseconds to verify this many nodes, the root included, after `context` tokens."""
        by_context = {measured: _interpolated(self.verify[measured], nodes) for measured in self._contexts}
        return _interpolated(by_context, context)

    def cycle_ms(self, passes: Sequence[Pass], nodes: int, k: int, context: float) -> float:
        """Milliseconds of a cycle with a tree."""
        return self.verify_ms(nodes, context) + self.draft[k].of(passes) + self.rest

    def plain_ms(self, context: float) -> float:
        """Milliseconds of a token in plain decoding."""
        return self.verify_ms(1, context) + self.rest


def save_costs(file: Path, table: CostTable) -> None:
    """Write a table, whole or not at all.

    Raises:
        FalconError: The place cannot be written.
    """
    document = {
        "device": table.device,
        "target": table.target,
        "weights": table.weights,
        "verify_ms": {str(c): {str(n): round(ms, 4) for n, ms in row.items()} for c, row in table.verify.items()},
        "draft_ms": {
            str(k): {_KEY.get(name, name): round(ms, 5) for name, ms in asdict(parts).items()}
            for k, parts in table.draft.items()
        },
        "rest_ms": round(table.rest, 4),
        "made_by": dict(table.made_by),
    }
    with atomic_file(file) as unfinished:
        unfinished.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_costs(file: Path) -> CostTable:
    """Read a table.

    Raises:
        FalconError: Names the file and what is wrong with it.
    """
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise FalconError(f"cannot read the cost table {file}: {error.strerror}") from error
    except ValueError as error:
        raise FalconError(f"{file} is no cost table: not JSON") from error
    try:
        return _table(document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        wrong = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise FalconError(
            f'{file} is no cost table: {wrong}; it wants {{"device", "target", "weights", "verify_ms": {{"128": {{"1": '
            f'18.0, "8": 24.0}}}}, "draft_ms": {{"2": {{{", ".join(_PARTS)}}}}}, "rest_ms"}}'
        ) from error


_KEY = {"further": "pass"}
_PARTS = [_KEY.get(part.name, part.name) for part in fields(DraftCost)]


def _table(document: Any) -> CostTable:
    if not isinstance(document, dict):
        raise TypeError("it must be one JSON object")
    verify = {
        _count(context): {_count(nodes): _ms(ms, f"verify_ms {context} {nodes}") for nodes, ms in row.items()}
        for context, row in document["verify_ms"].items()
    }
    if not verify or any(1 not in row or len(row) < 2 for row in verify.values()):
        raise ValueError("verify_ms needs a context, and for each 1 node and some more")
    if any(ms == 0 for row in verify.values() for ms in row.values()):
        raise ValueError("verify_ms must be more than 0")
    draft = {
        _count(k): DraftCost(*(_ms(parts[name], f"draft_ms {k} {name}") for name in _PARTS))
        for k, parts in document["draft_ms"].items()
    }
    if not draft:
        raise ValueError("draft_ms names no k")
    device, target, weights = (document[name] for name in ("device", "target", "weights"))
    if not all(isinstance(word, str) for word in (device, target, weights)):
        raise TypeError("device, target and weights must be text")
    made_by = document.get("made_by")
    made_by = made_by if isinstance(made_by, dict) else {}
    return CostTable(device, target, weights, verify, draft, _ms(document["rest_ms"], "rest_ms"), made_by)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f'"{text}" must be a whole number from 1')
    return int(text)


def _ms(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{name} must be milliseconds, not {json.dumps(value)}")
    return float(value)


def _interpolated(points: Mapping[int, float], at: float) -> float:
    """The piecewise linear value; the last piece is continued, and a single point serves everywhere."""
    places = sorted(points)
    if len(places) == 1 or at <= places[0]:
        return points[places[0]]
    right = min(max(1, bisect_left(places, at)), len(places) - 1)
    low, high = places[right - 1], places[right]
    beyond = at > places[-1]
    slope = (points[high] - points[low]) / (high - low)
    return points[low] + (max(0.0, slope) if beyond else slope) * (at - low)
