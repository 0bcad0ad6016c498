"""The results as a chart: speedup over plain decoding, over all text and over loop-free text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from falcon_cli.bench.figures.document import LoopFree, MethodFigures, PeerFigures, ResultsDocument
from falcon_cli.bench.figures.summary import BASELINE
from falcon_cli.bench.reports.wording import circumstances, times

_INK, _FAINT, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
_BAR = 0.36
"""Height of a bar, in rows."""


class _Shades(NamedTuple):
    all_text: str
    loop_free: str


_METHOD = _Shades("#3f7fbf", "#bcd5ec")
_PEER = _Shades("#8a94a0", "#d6dbe1")


class _Row(NamedTuple):
    label: str
    figures: MethodFigures | PeerFigures
    shades: _Shades


def speedup_chart(results: ResultsDocument, path: Path) -> None:
    """Draw the results document's speedups as horizontal bars, fastest on top, peers in grey below.

    The upper bar of a row is over all text, the lighter one over loop-free text; whiskers are 95 % intervals.

    Args:
        results: the whole document (`--json`).
        path: where the PNG goes; its folder must exist.

    Raises:
        OSError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    rows = _rows(results)
    figure = Figure(figsize=(8.6, 1.8 + 0.6 * len(rows)), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        _draw(axes, place - _BAR / 2, row.figures, row.shades.all_text, "bold")
        _draw(axes, place + _BAR / 2, row.figures["loop_free"], row.shades.loop_free, "normal")
    _dress(axes, rows, circumstances(results))
    figure.savefig(path, format="png")


def _rows(results: ResultsDocument) -> list[_Row]:
    """Rows from top to bottom; the baseline is the line at 1, not a row."""

    def ordered(group: Mapping[str, MethodFigures | PeerFigures], shades: _Shades) -> list[_Row]:
        known = [_Row(name, figures, shades) for name, figures in group.items() if figures["speedup"] is not None]
        return sorted(known, key=lambda row: row.figures["speedup"] or 0.0, reverse=True)

    methods = {name: figures for name, figures in results["methods"].items() if name != BASELINE}
    return ordered(methods, _METHOD) + ordered(results["peers"], _PEER)


def _draw(axes: Any, height: float, figures: MethodFigures | PeerFigures | LoopFree, colour: str, weight: str) -> None:
    speedup, (low, high) = figures["speedup"], figures["speedup_ci95"]
    if speedup is None:
        return
    axes.barh(height, speedup, _BAR, color=colour)
    axes.plot([low, high], [height, height], color=_INK, linewidth=1.2, solid_capstyle="butt")
    axes.annotate(
        times(speedup),
        (max(speedup, high or speedup), height),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=_INK,
        fontweight=weight,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},  # the line at 1 must not strike a number through
    )


def _dress(axes: Any, rows: list[_Row], subtitle: str) -> None:
    from matplotlib.patches import Patch

    axes.axvline(1.0, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=10.5, color=_INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelsize=9, labelcolor=_FAINT)
    axes.xaxis.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title("Speedup over plain decoding", loc="left", fontsize=14, weight="bold", color=_INK, pad=24)
    axes.annotate(
        subtitle, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=_FAINT
    )
    keys = [Patch(color=_METHOD.all_text, label="all text"), Patch(color=_METHOD.loop_free, label="loop-free text")]
    if any(row.shades is _PEER for row in rows):
        keys.append(Patch(color=_PEER.all_text, label="peers"))
    axes.figure.legend(handles=keys, loc="outside lower right", ncols=3, frameon=False, fontsize=9, labelcolor=_INK)
