"""A tuned tree as pictures: the tree, the acceptance by depth and rank, and the speed of each size of tree.

Shapes: P depths.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.sketch import percent

_INK, _FAINT, _GRID, _BAND = "#1f2933", "#616e7c", "#e4e7eb", "#f3f5f7"
_RAMP = ("#3f7fbf", "#2f9a8a", "#cf8f2e", "#c8553d")
"""Colours of slots, or lines, first to last."""
_HEAT = ("#ffffff", "#bcd5ec", "#3f7fbf", "#1d3f66")
_RANKS = 12
"""Most ranks that a heat map shows."""

# Inches of a drawn tree:
_ROOT, _SPECK = 0.26, 0.02
"""Radius of a node with probability 1; the least radius."""
_ROOM, _LABEL = 0.085, 0.13
"""Least radius that holds a rank; height of a rank written above its node."""
_GAP, _MARGIN, _PAD = 0.06, 0.35, 0.12
"""Space between nodes above each other; around the picture; inside a band."""
_HEAD, _BAND_HEAD, _FOOT = 0.95, 0.28, 0.5
"""Heights of heading, name of a pass and legend."""

_PLACES = [(0, 7), (0, -7), (8, 0), (-8, 0), (7, 7), (-7, 7), (7, -7), (-7, -7), (0, 18), (0, -18), (9, 18), (9, -18)]
"""Where a name may be written next to its dot, best first, in points."""


class Point(NamedTuple):
    """The predicted speed of the best tree of a size."""

    nodes: int
    passes: int
    tokens_per_second: float


class Measured(NamedTuple):
    """A tree that was run: its predicted and its measured tokens a second."""

    nodes: int
    predicted: float
    measured: float
    name: str
    """Written next to the dot; may be empty."""


def tree_picture(shape: TreeShape, k: int, probabilities: Sequence[float], title: str, path: Path) -> None:
    """Draw a tree from left to right: a node's area is its probability, its colour its slot, its number its rank.

    Args:
        shape: the tree.
        k: depths that a pass drafts.
        probabilities: how likely each node is reached, the root included.
        title: the heading.
        path: where the PNG or SVG goes, by its suffix; its folder must exist.

    Raises:
        OSError: `path` cannot be written.
    """
    from matplotlib.figure import Figure

    radii = [max(_SPECK, _ROOT * probability**0.5) for probability in probabilities]
    above = set(shape.parents[1:])
    tops = [radius + _LABEL * (node in above and radius < _ROOM) for node, radius in enumerate(radii)]
    heights = _heights(shape, tops, [max(radius, _ROOM * 0.7) for radius in radii])
    low = min(height - radius for height, radius in zip(heights, radii, strict=True)) - _PAD
    high = max(height + top for height, top in zip(heights, tops, strict=True)) + _PAD
    step = min(1.1, max(0.62, 8 / max(1, shape.height)))
    at = [(_MARGIN + _ROOT + step * depth, height) for depth, height in zip(shape.depths, heights, strict=True)]
    wide = max(at[-1][0] + step / 2 + _MARGIN, 0.11 * len(title) + 2 * _MARGIN, 5.4)
    low_edge, high_edge = low - _FOOT, high + _BAND_HEAD + _HEAD
    figure = Figure(figsize=(wide, high_edge - low_edge), dpi=160)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0, wide), ylim=(low_edge, high_edge))  # in inches
    axes.set_axis_off()
    _draw_bands(axes, k, at[0][0], step, shape.height, (low, high))
    _draw_nodes(axes, shape, k, at, radii)
    axes.text(_MARGIN, high_edge - 0.44, title, fontsize=13, weight="bold", color=_INK)
    subtitle = "area: probability that the node is reached · number: rank among the drafter's choices"
    axes.text(_MARGIN, high_edge - 0.68, subtitle, fontsize=8, color=_FAINT)
    figure.savefig(path)


def _heights(shape: TreeShape, tops: Sequence[float], bottoms: Sequence[float]) -> list[float]:
    """Each node's height: first choices on top, subtrees as close as possible, parents in the middle of their children.

    Args:
        shape: the tree.
        tops: how far each node reaches above its own height.
        bottoms: how far below.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    for node, parent in enumerate(shape.parents[1:], start=1):
        children[parent].append(node)
    offsets = [0.0] * len(shape)
    outlines: dict[int, list[tuple[float, float]]] = {}  # highest and lowest of each depth of a subtree
    for node in reversed(range(len(shape))):
        joint: list[tuple[float, float]] = []
        for child in children[node]:
            # Move the subtree down until it clears, at every depth, the lowest of those placed before it.
            outline = outlines.pop(child)
            place = min((done[1] - _GAP - new[0] for done, new in zip(joint, outline, strict=False)), default=0.0)
            moved = [(place + high, place + low) for high, low in outline]
            joint = [(done[0], new[1]) for done, new in zip(joint, moved, strict=False)] + (
                joint[len(moved) :] or moved[len(joint) :]
            )
            offsets[child] = place
        middle = (offsets[children[node][0]] + offsets[children[node][-1]]) / 2 if children[node] else 0.0
        for child in children[node]:
            offsets[child] -= middle
        outlines[node] = [(tops[node], -bottoms[node]), *((high - middle, low - middle) for high, low in joint)]
    heights: list[float] = []
    for node, parent in enumerate(shape.parents):
        heights.append(heights[parent] + offsets[node] if node else 0.0)
    return heights


def _draw_bands(axes: Any, k: int, root: float, step: float, height: int, ends: tuple[float, float]) -> None:
    """Draw a band behind the depths of each pass, with its name on top."""
    from matplotlib.patches import Rectangle

    low, high = ends
    for number, before in enumerate(range(0, height, k), start=1):
        left, right = (root + step * (depth + 0.5) for depth in (before, min(before + k, height)))
        size = right - left - 0.05, high + _BAND_HEAD - low
        axes.add_patch(Rectangle((left, low), *size, facecolor=_BAND, edgecolor="none", zorder=0))
        axes.text(left + size[0] / 2, high + 0.06, f"pass {number}", ha="center", fontsize=8.5, color=_FAINT)


def _draw_nodes(axes: Any, shape: TreeShape, k: int, at: Sequence[tuple[float, float]], radii: Sequence[float]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    above = set(shape.parents[1:])
    colours = _colours(min(k, shape.height))
    for node in range(1, len(shape)):
        (x0, y0), (x1, y1) = at[shape.parents[node]], at[node]
        middle = (x0 + x1) / 2
        curve = Curve([(x0, y0), (middle, y0), (middle, y1), (x1, y1)], [Curve.MOVETO, *[Curve.CURVE4] * 3])
        axes.add_patch(PathPatch(curve, facecolor="none", edgecolor="#a9b3bd", linewidth=0.8, zorder=1))
    fill = [_INK, *(colours[(depth - 1) % k] for depth in shape.depths[1:])]
    axes.scatter(*zip(*at, strict=True), s=[(144 * radius) ** 2 for radius in radii], c=fill, linewidths=0, zorder=2)
    axes.text(*at[0], "root", ha="center", va="center_baseline", fontsize=8.5, color="white", zorder=3)
    for node in range(1, len(shape)):
        (x, y), radius, rank = at[node], radii[node], str(shape.ranks[node])
        if radius >= _ROOM:
            size = min(9.5, 72 * radius)
            axes.text(x, y, rank, ha="center", va="center_baseline", fontsize=size, color="white", zorder=3)
        elif node in above:
            axes.text(x, y + radius + 0.025, rank, ha="center", va="baseline", fontsize=6, color=_FAINT, zorder=3)
        else:
            axes.text(x + radius + 0.035, y, rank, va="center_baseline", fontsize=6, color=_FAINT, zorder=3)
    keys = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=f"slot {slot}")
        for slot, colour in enumerate(colours, start=1)
    ]
    place = {"loc": "lower left", "bbox_to_anchor": (_MARGIN, axes.get_ylim()[0] + 0.12)}
    style = {"ncols": 10, "frameon": False, "fontsize": 8.5, "labelcolor": _INK, "handletextpad": 0.1}
    axes.legend(handles=keys, **place, bbox_transform=axes.transData, borderaxespad=0, borderpad=0, **style)


def heat_map(shares: Tensor, k: int, title: str, path: Path) -> None:
    """Draw how often the true token has each rank at each depth, given that its parent is right.

    Args:
        shares: the shares [P, ranks]; ranks past the twelfth are left out.
        k: depths that a pass drafts; a line separates passes.
        title: the heading.
        path: where the PNG or SVG goes, by its suffix; its folder must exist.

    Raises:
        OSError: `path` cannot be written.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = shares[:, :_RANKS].tolist()
    depths, ranks = len(rows), len(rows[0])
    size = max(2.2 + 0.52 * ranks, 2.2 + 0.11 * len(title), 5.6), 1.35 + 0.36 * depths
    figure = Figure(figsize=size, dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # small shares stay apart
    axes.imshow(rows, cmap=LinearSegmentedColormap.from_list("falcon", _HEAT), norm=norm, aspect="auto")
    for depth, row in enumerate(rows):
        for rank, share in enumerate(row):
            if round(share, 6) >= 0.01:
                ink = "white" if share > 0.3 else _INK
                axes.text(rank, depth, percent(share), ha="center", va="center", fontsize=8, color=ink)
    for boundary in range(k, depths, k):
        axes.axhline(boundary - 0.5, color=_INK, linewidth=1.2)
    axes.set_xticks(range(ranks))
    names = [f"depth {depth + 1} (pass {depth // k + 1}, slot {depth % k + 1})" for depth in range(depths)]
    axes.set_yticks(range(depths), names)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labelsize=8.5, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("rank of the true token among the drafter's choices", loc="left", fontsize=9, color=_FAINT)
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=_INK, pad=12)
    figure.savefig(path)


def speed_curve(points: Sequence[Point], measured: Sequence[Measured], plain: float, title: str, path: Path) -> None:
    """Draw predicted tokens a second against nodes, a line for each number of passes, and the measured trees.

    Args:
        points: predictions, in any order.
        measured: trees that were run; a line joins each to its prediction.
        plain: tokens a second of plain decoding.
        title: the heading.
        path: where the PNG or SVG goes, by its suffix; its folder must exist.

    Raises:
        OSError: `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.6, 4.8), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.add_subplot()
    lines: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for point in sorted(points):
        lines[point.passes].append((point.nodes, point.tokens_per_second))
    for (passes, line), colour in zip(sorted(lines.items()), _colours(len(lines)), strict=True):
        name = f"{passes} pass{'es' * (passes != 1)}"
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
    axes.axhline(plain, color=_INK, linewidth=1.0, linestyle=(0, (4, 3)), label="plain decoding")
    for run in measured:
        axes.plot([run.nodes] * 2, [run.predicted, run.measured], color=_INK, linewidth=0.8, zorder=3)
    dots = [(run.nodes, run.measured) for run in measured]
    if dots:
        axes.plot(*zip(*dots, strict=True), "o", color=_INK, markeredgecolor="white", markersize=7, label="measured")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.06, y=0.12)
    axes.set_xlabel("nodes of the tree", fontsize=9, color=_FAINT)
    axes.set_ylabel("tokens per second", fontsize=9, color=_FAINT)
    axes.tick_params(length=0, labelsize=9, labelcolor=_FAINT)
    axes.yaxis.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=_INK, pad=12)
    figure.legend(loc="outside lower right", ncols=6, frameon=False, fontsize=9, labelcolor=_INK)
    _name_dots(axes, measured)
    figure.savefig(path)


def _name_dots(axes: Any, measured: Sequence[Measured]) -> None:
    """Write each measured tree's name next to its dot, where it covers least of the lines, dots and other names."""
    import numpy as np

    axes.figure.draw_without_rendering()  # fixes all positions
    inked = [np.zeros((0, 2))]
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        inked += [corners, *(np.linspace(a, b, 60) for a, b in pairwise(corners))]
    for run in (run for run in measured if run.name):
        text = axes.annotate(
            run.name, (run.nodes, run.measured), (0, 0), textcoords="offset points", fontsize=8.5, color=_INK
        )

        def covered(place: tuple[int, int], text: Any = text) -> int:
            _move(text, place)
            box = text.get_window_extent().padded(3)
            outside = not axes.bbox.fully_contains(*box.min) or not axes.bbox.fully_contains(*box.max)
            return 1000 * outside + sum(int(box.contains(*dot)) for dot in np.concatenate(inked))

        _move(text, min(_PLACES, key=covered))
        (left, low), (right, high) = text.get_window_extent().get_points()
        inked.append(np.array([(x, y) for x in np.linspace(left, right, 20) for y in np.linspace(low, high, 6)]))


def _move(text: Any, place: tuple[int, int]) -> None:
    """Place a name this many points from its dot, aligned to face it."""
    x, y = place
    text.xyann = place
    text.set(
        ha="left" if x > 0 else "right" if x < 0 else "center", va="bottom" if y > 0 else "top" if y < 0 else "center"
    )


def _colours(count: int) -> list[str]:
    """That many colours, from the ramp's first to its last."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    if 1 < count <= len(_RAMP):
        return [_RAMP[number * (len(_RAMP) - 1) // (count - 1)] for number in range(count)]
    ramp = LinearSegmentedColormap.from_list("falcon", _RAMP)
    return [to_hex(ramp(number / max(1, count - 1))) for number in range(count)]
