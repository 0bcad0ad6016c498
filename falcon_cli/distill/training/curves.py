"""Plots the curves of a training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8a5cb8")
_SMOOTH = 0.02
"""Width of the smoothing, as a share of the run."""


def draw_curves(steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the loss, and each slot's accuracy in training and on held-out text, over the steps.

    Args:
        steps: Lines of `metrics.jsonl`.
        evaluations: Lines of `held_out.jsonl`.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=130)
    left, right = figure.subplots(1, 2)
    x = [line["step"] for line in steps]
    width = max(1, round(_SMOOTH * len(x)))
    left.plot(x, [line["loss"] for line in steps], color="#c8d6e0", linewidth=0.7)
    left.plot(x, smooth([line["loss"] for line in steps], width), color=_COLOURS[0], label="training loss")
    left.set(xlabel="step", ylabel="loss", yscale="log")
    for slot in range(len(steps[0]["slots"]) if steps else 0):
        colour = _COLOURS[slot % len(_COLOURS)]
        shares = smooth([100 * line["slots"][slot] for line in steps], width)
        right.plot(x, shares, color=colour, linewidth=1.2, label=f"slot {slot + 1}, training")
        right.plot(
            [line["step"] for line in evaluations],
            [100 * line["top1"][0][slot] for line in evaluations],
            "o--",
            color=colour,
            markersize=3,
            linewidth=0.8,
            label=f"slot {slot + 1}, held out",
        )
    right.set(xlabel="step", ylabel="right tokens, %", ylim=(0, None))
    for axes in (left, right):
        axes.grid(color="#e8e8e8")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values at each place."""
    means, total = [], 0.0
    for place, value in enumerate(values):
        total += value - (values[place - width] if place >= width else 0.0)
        means.append(total / min(place + 1, width))
    return means
