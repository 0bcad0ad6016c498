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

Slots are drafted one after the other. Unchained, all children of a row's slot are drafted from one feature; chained,
from a feature of their own parent's.

Shapes: R rows of a pass, K slots of a row, F nodes that a slot fills, J their parents, E features that the LM head
reads, Q = R·K positions of a pass, U uncommitted positions of earlier passes, C = U + Q uncommitted positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from falcon_cli.tree.shape import TreeShape, ancestors_of

Tables = TypeVar("Tables", "Pass", "Slot")


@dataclass(frozen=True)
class Slot:
    """The tables of one slot of a pass: the features that its nodes are drafted from."""

    output_E: Tensor
    """The output that each feature is made of, row · K + slot − 1."""
    said_E: Tensor
    """The node whose token a chained feature goes on from."""
    parents_J: Tensor
    """Nodes whose children are drafted here."""
    feature_J: Tensor
    """Each parent's feature, 0 .. E − 1: its own where slots are chained, else shared by a row's."""
    width: int
    """Best tokens needed of each feature."""
    choice_F: Tensor
    """Each drafted node's candidate, e · width + rank."""
    begin: int
    """The nodes drafted are begin .. end − 1: a slot fills a whole depth, and nodes are sorted by depth."""
    end: int


@dataclass(frozen=True)
class Pass:
    """The tables of one pass."""

    parent_R: Tensor
    """Each row's parent among the rows of the pass before (the first pass: 0)."""
    block_RK: Tensor
    """The nodes whose tokens each row reads (the first pass reads committed tokens; its block is empty)."""
    above_RK: Tensor
    """Their parents: a node is read with the feature that it was drafted from."""
    depth_Q: Tensor
    """Each position's depth, from 0 for the nodes at depth 1: its distance from the first uncommitted position."""
    earlier_U: Tensor
    """The same of the positions of earlier passes."""
    ancestors_QC: Tensor
    """Boolean: which uncommitted positions each position sees."""
    slots: tuple[Slot, ...]
    """First to last, as far as the tree reaches."""


def passes_of(shape: TreeShape, k: int, chained: bool = False) -> tuple[Pass, ...]:
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
        begin, end = max(0, mine[0] - 1) * k, mine[-1] * k  # positions; the root's row has none
        block_RK = _long(node for row in mine if row for node in blocks[row - 1]).view(-1, k)
        output_of = {
            node: (row_of[anchors[node] if shape.depths[node] % k else node] - mine[0]) * k + shape.depths[node] % k
            for node in set(shape.parents[1:])
            if top <= shape.depths[node] < top + k
        }
        depths = range(top + 1, min(top + k, shape.height) + 1)
        passes.append(
            Pass(
                parent_R=_long(row_parents[row] - first_before for row in mine),
                block_RK=block_RK,
                above_RK=_long(shape.parents)[block_RK],
                depth_Q=depth[begin:end],
                earlier_U=depth[:begin],
                ancestors_QC=seen[begin:end, :end],
                slots=tuple(_slot(shape, one, output_of, chained) for one in depths),
            )
        )
        first_before = mine[0]
    return tuple(passes)


def _slot(shape: TreeShape, depth: int, output_of: dict[int, int], chained: bool) -> Slot:
    """The tables that draft one depth."""
    drafted = [node for node, d in enumerate(shape.depths) if d == depth]
    parents = sorted({shape.parents[node] for node in drafted})
    lead = {parent if chained else output_of[parent]: parent for parent in reversed(parents)}
    keys = sorted(lead)
    feature_of = {parent: keys.index(parent if chained else output_of[parent]) for parent in parents}
    width = 1 + max(shape.ranks[node] for node in drafted)
    return Slot(
        output_E=_long(output_of[lead[key]] for key in keys),
        said_E=_long(lead[key] for key in keys),
        parents_J=_long(parents),
        feature_J=_long(feature_of[parent] for parent in parents),
        width=width,
        choice_F=_long(feature_of[shape.parents[node]] * width + shape.ranks[node] for node in drafted),
        begin=drafted[0],
        end=drafted[-1] + 1,
    )


def moved(tables: Tables, device: torch.device) -> Tables:
    """The tables of a pass or a slot on a device."""
    held: dict[str, Any] = {one.name: getattr(tables, one.name) for one in fields(tables)}
    on: dict[str, Any] = {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}
    if isinstance(tables, Pass):
        on["slots"] = tuple(moved(slot, device) for slot in tables.slots)
    return replace(tables, **on)


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
