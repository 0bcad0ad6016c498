"""A tree cut into the passes that draft it, k depths a pass: everything about them that no token changes.

A row of a pass is one node at depth (p−1)·k, with its k slots for depths (p−1)·k + 1 .. p·k; the first pass has one
row, the root. Only nodes with children get a row. For k = 2 the tree

    node   0 ──┬── 1 ──┬── 3 ─── 5        pass 1   row 0 = root         slots 1, 2 → depths 1, 2: nodes 1 2 3 4
               │       └── 4 ─── 6        pass 2   rows of 3 and 4      slots 1, 2 → depths 3, 4: nodes 5 6
               └── 2

A row's input block is the k nodes on the way to its node, itself the last: (1, 3) and (1, 4). What a block's positions
may see among the uncommitted ones is their own block whole and the blocks of their row's ancestors; here, and with a
third pass of one row under the first:

    pass 2     1 1 . .          pass 3     1 1 . .  1 1
               1 1 . .                     1 1 . .  1 1
               . . 1 1
               . . 1 1

Shapes: R rows of a pass, K slots of a row, N nodes that a pass drafts, E outputs that the LM head reads, Q = R·K
positions of a pass, U positions of earlier passes, C = U + Q.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from falcon_cli.tree.shape import TreeShape, ancestors_of


@dataclass(frozen=True)
class Pass:
    """The tables of one pass."""

    parent_R: Tensor
    """Each row's parent among the rows of the pass before (the first pass: 0)."""
    block_RK: Tensor
    """The nodes whose tokens each row reads (the first pass reads committed tokens; its block is empty)."""
    depth_Q: Tensor
    """Each position's depth, from 0 for the nodes at depth 1: its distance from the first uncommitted position."""
    earlier_U: Tensor
    """The same of the positions of earlier passes."""
    ancestors_QC: Tensor
    """Boolean: which uncommitted positions each position sees."""
    wanted_E: Tensor
    """Outputs that candidates are taken from, row · K + slot − 1."""
    width: int
    """Best tokens needed of each."""
    choice_N: Tensor
    """Each drafted node's candidate, e · width + rank."""
    begin: int
    """The nodes drafted are begin .. end − 1: a pass fills whole depths, and nodes are sorted by depth."""
    end: int

    def to(self, device: torch.device) -> "Pass":
        """The same on a device."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: held.to(device) for name, held in values.items() if isinstance(held, Tensor)}
        return Pass(**values)


def passes_of(shape: TreeShape, k: int) -> tuple[Pass, ...]:
    """The passes that draft a tree, k depths each; none for the root alone."""
    rows = _rows(shape, k)
    row_of = {node: row for row, node in enumerate(rows)}
    anchors = _anchors(shape, k)
    row_parents = tuple(row_of[anchors[node]] for node in rows)
    seen = ancestors_of(row_parents)[1:, 1:].repeat_interleave(k, 0).repeat_interleave(k, 1)
    blocks = [_way(shape, node, k) for node in rows[1:]]
    depth = torch.tensor([shape.depths[node] - 1 for block in blocks for node in block], dtype=torch.long)
    passes, first_before = [], 0
    for top in range(0, shape.height, k):
        mine = [row for row, node in enumerate(rows) if shape.depths[node] == top]
        drafted = [node for node, d in enumerate(shape.depths) if top < d <= top + k]
        outputs = [(row_of[anchors[node]] - mine[0]) * k + (shape.depths[node] - 1) % k for node in drafted]
        wanted = sorted(set(outputs))
        width = 1 + max(shape.ranks[node] for node in drafted)
        begin, end = max(0, mine[0] - 1) * k, mine[-1] * k  # positions; the root's row has none
        passes.append(
            Pass(
                parent_R=_long(row_parents[row] - first_before for row in mine),
                block_RK=_long(node for row in mine if row for node in blocks[row - 1]).view(-1, k),
                depth_Q=depth[begin:end],
                earlier_U=depth[:begin],
                ancestors_QC=seen[begin:end, :end],
                wanted_E=_long(wanted),
                width=width,
                choice_N=_long(wanted.index(o) * width + shape.ranks[n] for o, n in zip(outputs, drafted, strict=True)),
                begin=drafted[0],
                end=drafted[-1] + 1,
            )
        )
        first_before = mine[0]
    return tuple(passes)


def positions_of(passes: Sequence[Pass]) -> int:
    """Uncommitted positions that the passes write, all together."""
    return sum(len(one.depth_Q) for one in passes)


def _rows(shape: TreeShape, k: int) -> list[int]:
    """The nodes that get a row, breadth first, the root before all."""
    with_children = set(shape.parents[1:])
    return [0, *(node for node in sorted(with_children) if node and shape.depths[node] % k == 0)]


def _anchors(shape: TreeShape, k: int) -> list[int]:
    """For each node, the nearest ancestor (not itself) at a depth that is a multiple of k; the root is its own."""
    anchors: list[int] = []
    for node, parent in enumerate(shape.parents):
        anchors.append(parent if node == 0 or shape.depths[parent] % k == 0 else anchors[parent])
    return anchors


def _way(shape: TreeShape, node: int, k: int) -> list[int]:
    """The last k nodes of the way to a node, itself the last."""
    way = [node]
    while len(way) < k:
        way.append(shape.parents[way[-1]])
    return way[::-1]


def _long(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.long)
