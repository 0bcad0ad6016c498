import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.tree.passes import moved, passes_of, positions_of
from falcon_cli.tree.shape import TreeShape

DRAWN = TreeShape.from_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0), (0, 1, 0)])
"""The tree of the docstring."""
DEEPER = TreeShape.from_paths([*DRAWN.paths, (0, 0, 0, 0), (0, 0, 0, 0, 0)])
"""With a third pass of one row under the second's first."""


def drawn(picture):
    return [[mark == "1" for mark in line.split()] for line in picture.strip().splitlines()]


def test_the_drawn_tree_takes_two_passes():
    first, second = passes_of(DRAWN, 2)
    assert first.parent_R.tolist() == [0]
    assert first.block_RK.shape == (0, 2)
    one, two = first.slots
    assert (one.begin, one.end, one.output_E.tolist(), one.choice_F.tolist()) == (1, 3, [0], [0, 1])
    assert (two.begin, two.end, two.output_E.tolist(), two.choice_F.tolist()) == (3, 5, [1], [0, 1])
    assert second.block_RK.tolist() == [[1, 3], [1, 4]]
    assert second.parent_R.tolist() == [0, 0]
    assert second.depth_Q.tolist() == [0, 1, 0, 1]
    assert second.above_RK.tolist() == [[0, 1], [0, 1]]
    (one,) = second.slots  # slot 2 drafts nothing
    assert (one.begin, one.end) == (5, 7)
    assert one.output_E.tolist() == [0, 2]  # slot 1 of both rows
    assert (one.width, one.choice_F.tolist()) == (1, [0, 1])


def test_unchained_siblings_share_a_feature_chained_ones_have_their_own():
    shape = TreeShape.from_paths([(0,), (1,), (0, 0), (1, 0)])
    for chained, said, feature in ((False, 1, [0, 0]), (True, 2, [0, 1])):
        two = passes_of(shape, 2, chained)[0].slots[1]
        assert two.parents_J.tolist() == [1, 2]
        assert two.feature_J.tolist() == feature
        assert two.output_E.tolist() == [1] * said
        assert two.choice_F.tolist() == feature
    assert two.said_E.tolist() == [1, 2]


def test_the_masks_are_those_drawn():
    *_, second, third = passes_of(DEEPER, 2)
    assert second.ancestors_QC.tolist() == drawn("""
        1 1 . .
        1 1 . .
        . . 1 1
        . . 1 1
    """)
    assert third.ancestors_QC.tolist() == drawn("""
        1 1 . . 1 1
        1 1 . . 1 1
    """)
    assert third.earlier_U.tolist() == [0, 1, 0, 1]
    assert third.depth_Q.tolist() == [2, 3]
    assert positions_of(passes_of(DEEPER, 2)) == 6


def test_the_root_alone_takes_no_pass():
    assert passes_of(TreeShape(()), 3) == ()
    assert positions_of(()) == 0


@pytest.mark.parametrize(("k", "count"), [(1, 5), (2, 3), (3, 2), (4, 2), (5, 1), (9, 1)])
def test_passes_are_as_many_as_the_height_needs(k, count):
    assert len(passes_of(TreeShape.chain(5), k)) == count


@st.composite
def trees(draw):
    paths = [()]
    for _ in range(draw(st.integers(1, 20))):
        path = (*draw(st.sampled_from(paths)), draw(st.integers(0, 3)))
        if path not in paths:
            paths.append(path)
    return TreeShape.from_paths(paths[1:]), draw(st.integers(1, 5)), draw(st.booleans())


@given(trees())
def test_drafting_by_the_tables_names_every_nodes_path(tree):
    """A toy network whose output names its row, a toy head whose candidates name output and rank."""
    shape, k, chained = tree
    path_of = [()] + [None] * len(shape.paths)
    rows = [()]
    for number, step in enumerate(passes_of(shape, k, chained)):
        if number:
            assert [rows[parent] for parent in step.parent_R] == [
                path_of[int(block[0])][:-1] for block in step.block_RK
            ]
            rows = [path_of[int(block[-1])] for block in step.block_RK]
            for block in step.block_RK.tolist():
                assert [path_of[node] for node in block] == [path_of[block[-1]][:d] for d in step.depth_Q[:k] + 1]
            assert step.above_RK.tolist() == [
                [shape.parents[node] for node in block] for block in step.block_RK.tolist()
            ]
        for one in step.slots:
            made = list(zip(one.output_E.tolist(), one.said_E.tolist(), strict=True))
            candidates = [(output // k, output % k, said, rank) for output, said in made for rank in range(one.width)]
            of_parent = dict(zip(one.parents_J.tolist(), one.feature_J.tolist(), strict=True))
            for node, choice in zip(range(one.begin, one.end), one.choice_F.tolist(), strict=True):
                row, slot, said, rank = candidates[choice]
                path = shape.paths[node - 1]
                assert path[: len(rows[row])] == rows[row]
                assert (len(path), path[-1]) == (len(rows[row]) + slot + 1, rank)
                assert of_parent[shape.parents[node]] == choice // one.width
                assert said == shape.parents[node] or not chained
                path_of[node] = path
    assert None not in path_of


@given(trees())
def test_positions_see_their_block_and_their_rows_ancestors(tree):
    shape, k, _ = tree
    ends = []  # the node at which each row's block ends, over all passes
    for step in passes_of(shape, k):
        ends += [shape.paths[int(block[-1]) - 1] for block in step.block_RK]
        rows, columns = len(step.block_RK) * k, len(ends) * k
        assert step.ancestors_QC.shape == (rows, columns)
        assert len(step.earlier_U) + len(step.depth_Q) == columns
        for q in range(rows):
            mine = ends[len(ends) - len(step.block_RK) + q // k]
            expected = [mine[: len(ends[c // k])] == ends[c // k] for c in range(columns)]
            assert step.ancestors_QC[q].tolist() == expected


def test_tables_move_as_one():
    away = moved(passes_of(DRAWN, 2)[1], torch.device("meta"))
    assert away.block_RK.device.type == away.ancestors_QC.device.type == away.slots[0].choice_F.device.type == "meta"
    assert away.slots[0].width == 1
