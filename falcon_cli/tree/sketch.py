"""A tree drawn as text: one line a node, childless neighbours together on one.

For k = 2, with the chance that each node is reached:

    pass 1     2
    slot 1  2  1  2
      root
      ├─ 0            62 %  ██████████████████████▍
      │  ├─ 0         41 %  ██████████████▊
      │  │  ╞═ 0      30 %  ██████████▊
      │  │  │  └─ 0   21 %  ███████▌
      │  │  ╘═ 1       4 %  █▌
      │  └─ 1–3        9 %   5 %   2 %
      └─ 1–2          14 %   6 %

A node shows its rank among the drafter's choices after its parent. Nodes below one another are of one depth, which the
head names by its pass and the slot in it; doubled lines lead into a new pass.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from falcon_cli.tree.shape import TreeShape

_COLUMNS, _STEP, _LABEL = 80, 3, len("slot ")
_FIELD = len("100 %") + 1
"""Columns of a chance, the gap before it included."""
_BAR = 36
"""Columns of a bar that is full; fewer where the tree leaves no room."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


class _Line(NamedTuple):
    drawing: str
    nodes: list[int]


def sketch(shape: TreeShape, k: int, probabilities: Sequence[float] | None = None) -> str:
    """Draw a tree for an 80-column terminal (a tree of more than 20 depths is wider).

    Args:
        shape: the tree.
        k: depths that a pass drafts.
        chances: how likely each node is reached, the root included; no figures or bars where None.
    """
    if probabilities is not None and len(probabilities) != len(shape):
        raise ValueError(f"{len(probabilities)} chances for {len(shape)} nodes")
    children: defaultdict[int, list[int]] = defaultdict(list)
    for node, parent in enumerate(shape.parents):
        if node:
            children[parent].append(node)
    widest = _LABEL + _STEP * shape.height + len("00–00")
    together = max(1, (_COLUMNS - widest) // _FIELD) if probabilities is not None else len(shape)
    lines = [_Line("  root", []), *_below(shape, k, children, 0, "  ", together)]
    width = max(len(line.drawing) for line in lines)
    drawn = [line.drawing + _figures(line, probabilities, width) for line in lines]
    return "\n".join([*_head(shape.height, k), *drawn])


def _head(height: int, k: int) -> list[str]:
    """The pass, where it begins, and the slot of each depth."""
    if not height:
        return []
    passes = (str(depth // k + 1) if depth % k == 0 else "" for depth in range(height))
    slots = (str(depth % k + 1) for depth in range(height))
    return [
        (name + "".join(one.ljust(_STEP) for one in ones)).rstrip()
        for name, ones in (("pass ", passes), ("slot ", slots))
    ]


def _below(
    shape: TreeShape, k: int, children: dict[int, list[int]], node: int, margin: str, together: int
) -> Iterator[_Line]:
    """The lines of everything under a node."""
    runs = list(_runs(shape, children, children.get(node, []), together))
    fork, last = ("╞═ ", "╘═ ") if shape.depths[node] % k == 0 and node else ("├─ ", "└─ ")
    for run in runs:
        ends = run is runs[-1]
        first, final = shape.ranks[run[0]], shape.ranks[run[-1]]
        ranks = str(first) if len(run) == 1 else f"{first}–{final}"
        yield _Line(margin + (last if ends else fork) + ranks, run)
        yield from _below(shape, k, children, run[0], margin + ("   " if ends else "│  "), together)


def _runs(shape: TreeShape, children: dict[int, list[int]], siblings: list[int], together: int) -> Iterator[list[int]]:
    """Siblings cut into lines: childless ones of successive ranks together, any other alone."""
    run: list[int] = []
    for node in siblings:
        joins = run and not children.get(node) and not children.get(run[-1])
        if joins and shape.ranks[node] == shape.ranks[run[-1]] + 1 and len(run) < together:
            run.append(node)
            continue
        if run:
            yield run
        run = [node]
    if run:
        yield run


def _figures(line: _Line, probabilities: Sequence[float] | None, width: int) -> str:
    """What stands right of the drawing: a chance and its bar, or the chances of a run."""
    if probabilities is None or not line.nodes:
        return ""
    gap = " " * (width - len(line.drawing) + 1)
    text = gap + "".join(percent(probabilities[node]).rjust(_FIELD) for node in line.nodes)
    if len(line.nodes) > 1:
        return text
    bar = _bar(probabilities[line.nodes[0]], min(_BAR, _COLUMNS - width - 1 - _FIELD - 2))
    return f"{text}  {bar}".rstrip()


def percent(probability: float) -> str:
    """A chance in whole percent; what is there but rounds to nothing is `<1 %`."""
    return "<1 %" if 0 < probability <= 0.005 else f"{probability:.0%}".replace("%", " %")


def _bar(share: float, columns: int) -> str:
    eighths = round(share * 8 * max(0, columns))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
