"""A tree cut into the passes that draft it, k depths each: everything about the passes that no token changes.

A row of a pass is one node at depth (p−1)·k, with its k slots for depths (p−1)·k + 1 .. p·k; the first pass has one
row, the root. Only nodes with children get a row. For k = 2 the tree

    node   0 ──┬── 1 ──┬── 3 ─── 5        pass 1   row 0 = root         slots 1, 2 → depths 1, 2: nodes 1 2 3 4
               │       └── 4 ─── 6        pass 2   rows of 3 and 4      slots 1, 2 → depths 3, 4: nodes 5 6
               └── 2

A row's input block is the last k nodes of the path to its node: (1, 3) and (1, 4). Of the uncommitted positions, those
of a block see all of their block and the blocks of their row's ancestors. Here, and with a third pass that has one row
under the first:

    pass 2     1 1 . .          pass 3     1 1 . .  1 1
               1 1 . .                     1 1 . .  1 1
               . . 1 1
               . . 1 1

Slots are drafted one after the other. Unchained, all nodes of a row's slot are drafted from one feature. Chained, they
are drafted from one feature for each parent.

Shapes: R rows of a pass, K slots of a row, F nodes that a slot fills, J their parents, E features that the LM head
reads, Q = R·K positions of a pass, U uncommitted positions of earlier passes, C = U + Q uncommitted positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from falcon_cli.tree.shape import TreeShape, ancestors_of, last_of_path

Tables = TypeVar("Tables", "Pass", "Slot")


@dataclass(frozen=True)
class Slot:
    """The tables of one slot of a pass: the features that its nodes are drafted from."""

    output_E: Tensor
    """The output that each feature is made of: row · K + slot − 1."""
    said_E: Tensor
    """Each feature's lead: the node whose token a chained feature continues."""
    parents_J: Tensor
    """Nodes whose children are drafted here."""
    feature_J: Tensor
    """Each parent's feature, 0 .. E − 1: one for each parent where slots are chained, else one for each row."""
    width: int
    """How many of each feature's best tokens are needed."""
    choice_F: Tensor
    """Each drafted node's candidate: e · width + rank."""
    begin: int
    """Nodes begin .. end − 1 are drafted: a slot fills a whole depth, and nodes are sorted by depth."""
    end: int


@dataclass(frozen=True)
class Pass:
    """The tables of one pass."""

    parent_R: Tensor
    """Each row's parent among the rows of the previous pass (0 in the first pass)."""
    block_RK: Tensor
    """The nodes whose tokens each row reads (the first pass reads committed tokens; its block is empty)."""
    above_RK: Tensor
    """Their parents: a node is read with the feature that it was drafted from."""
    depth_Q: Tensor
    """Each position's depth less 1: its distance from the first uncommitted position."""
    earlier_U: Tensor
    """The same for the positions of earlier passes."""
    ancestors_QC: Tensor
    """Boolean: which uncommitted positions each position sees."""
    slots: tuple[Slot, ...]
    """First to last, as far as the tree reaches."""


def passes_of(shape: TreeShape, k: int, chained: bool = False) -> tuple[Pass, ...]:
    """The passes that draft a tree, k depths each; none for the root alone."""
    # Rows are numbered over all passes, breadth first: the root's is 0, and the rows of a pass are consecutive.
    nodes_of_rows = _nodes_of_rows(shape, k)
    row_of = {node: row for row, node in enumerate(nodes_of_rows)}
    anchors = _anchors(shape, k)
    row_parents = tuple(row_of[anchors[node]] for node in nodes_of_rows)
    # Row r > 0 fills the k positions (r - 1) * k .. r * k - 1. A position sees another exactly where its row sees the
    # other's row, so the ancestor matrix of the rows, each entry k x k times, is the mask. The root's row is cut off:
    # it reads committed tokens, which every position sees anyway.
    seen = ancestors_of(row_parents)[1:, 1:].repeat_interleave(k, 0).repeat_interleave(k, 1)
    blocks = [last_of_path(shape.parents, node, k) for node in nodes_of_rows[1:]]
    depth_of_position = torch.tensor([shape.depths[node] - 1 for block in blocks for node in block], dtype=torch.long)
    passes, first_before = [], 0
    for top in range(0, shape.height, k):
        # The pass that drafts depths top + 1 .. top + k has a row for each node at depth `top` that has children.
        rows = [row for row, node in enumerate(nodes_of_rows) if shape.depths[node] == top]
        first = rows[0]
        begin, end = max(0, first - 1) * k, rows[-1] * k  # its positions; the first pass has none: 0 .. 0
        block_RK = _long(node for row in rows if row for node in blocks[row - 1]).view(-1, k)
        output_of = _outputs(shape, k, top, first, row_of, anchors)
        passes.append(
            Pass(
                parent_R=_long(row_parents[row] - first_before for row in rows),
                block_RK=block_RK,
                above_RK=_long(shape.parents)[block_RK],
                depth_Q=depth_of_position[begin:end],
                earlier_U=depth_of_position[:begin],
                ancestors_QC=seen[begin:end, :end],
                slots=tuple(
                    _slot(shape, depth, output_of, chained) for depth in range(top + 1, min(top + k, shape.height) + 1)
                ),
            )
        )
        first_before = first
    return tuple(passes)


def _outputs(
    shape: TreeShape, k: int, top: int, first: int, row_of: Mapping[int, int], anchors: Sequence[int]
) -> dict[int, int]:
    """Each node of this pass with children → the output of the pass from which the children are drafted.

    A pass with R rows has R * k outputs; that of slot s (from 1) of its row r (from 0) is number r * k + s - 1.
    """
    outputs = {}
    for node in set(shape.parents[1:]):
        below_top = shape.depths[node] - top
        if 0 <= below_top < k:
            # A node at depth `top` has a row of its own and children in slot 1. A deeper one is in its anchor's row,
            # and its children are one slot below it: in slot below_top + 1 either way.
            row = row_of[anchors[node] if below_top else node]
            outputs[node] = (row - first) * k + below_top
    return outputs


def _slot(shape: TreeShape, depth: int, output_of: Mapping[int, int], chained: bool) -> Slot:
    """The tables that draft one depth."""
    drafted = [node for node, d in enumerate(shape.depths) if d == depth]
    parents = sorted({shape.parents[node] for node in drafted})
    # A feature is identified by its parent where slots are chained, else by the output it is made of, which all
    # parents in one row share.
    identity = {parent: parent if chained else output_of[parent] for parent in parents}
    # The lead of a feature is the first parent that uses it: going backwards, the first one is written last.
    lead = {identity[parent]: parent for parent in reversed(parents)}
    # Features are numbered in the order of their identities.
    number_of = {feature: number for number, feature in enumerate(sorted(lead))}
    leads = [lead[feature] for feature in sorted(lead)]
    # The head gives the `width` best tokens of every feature, so candidate e * width + r is rank r of feature e.
    width = 1 + max(shape.ranks[node] for node in drafted)
    feature_of = {parent: number_of[identity[parent]] for parent in parents}
    return Slot(
        output_E=_long(output_of[parent] for parent in leads),
        said_E=_long(leads),
        parents_J=_long(parents),
        feature_J=_long(feature_of[parent] for parent in parents),
        width=width,
        choice_F=_long(feature_of[shape.parents[node]] * width + shape.ranks[node] for node in drafted),
        begin=drafted[0],
        end=drafted[-1] + 1,
    )


def moved(tables: Tables, device: torch.device) -> Tables:
    """The tables of a pass or a slot on a device."""
    values: dict[str, Any] = {field.name: getattr(tables, field.name) for field in fields(tables)}
    on: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    if isinstance(tables, Pass):
        on["slots"] = tuple(moved(slot, device) for slot in tables.slots)
    return replace(tables, **on)


def positions_of(passes: Sequence[Pass]) -> int:
    """How many uncommitted positions the passes write, all together."""
    return sum(len(tables.depth_Q) for tables in passes)


def _nodes_of_rows(shape: TreeShape, k: int) -> list[int]:
    """The nodes that get a row, breadth first: the root, then each node with children at a depth that k divides."""
    with_children = set(shape.parents[1:])
    return [0, *(node for node in sorted(with_children) if node and shape.depths[node] % k == 0)]


def _anchors(shape: TreeShape, k: int) -> list[int]:
    """Each node's anchor: its nearest proper ancestor at a depth that k divides, in whose row the node is drafted.

    The root is its own anchor.
    """
    anchors: list[int] = []
    for node, parent in enumerate(shape.parents):
        # Either the parent begins a row, or parent and node are drafted in one row: parents come first in the list.
        anchors.append(parent if node == 0 or shape.depths[parent] % k == 0 else anchors[parent])
    return anchors


def _long(numbers: Iterable[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.long)
