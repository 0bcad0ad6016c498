import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.errors import FalconError
from falcon_cli.tree.shape import TreeShape, ancestors_of, depths_of, last_of_path


@st.composite
def path_sets(draw):
    """Prefix-closed sets of paths in a random order: each path extends the root or an earlier path."""
    paths = [()]
    for _ in range(draw(st.integers(0, 20))):
        path = (*draw(st.sampled_from(paths)), draw(st.integers(0, 3)))
        if path not in paths:
            paths.append(path)
    return draw(st.permutations(paths[1:]))


@given(path_sets())
def test_nodes_are_sorted_breadth_first_and_named_by_their_paths(paths):
    shape = TreeShape.from_paths(paths)
    named = [(), *shape.paths]
    assert sorted(named) == sorted([(), *paths])
    assert len(shape) == len(paths) + 1
    assert [(len(path), path) for path in named] == sorted((len(path), path) for path in named)
    assert shape.depths == tuple(len(path) for path in named)
    assert shape.ranks == (0, *(path[-1] for path in named[1:]))
    assert [named[parent] for parent in shape.parents[1:]] == [path[:-1] for path in named[1:]]
    assert shape.height == max(len(path) for path in named)


@given(path_sets())
def test_parents_come_first_and_every_prefix_of_the_nodes_is_a_tree(paths):
    shape = TreeShape.from_paths(paths)
    assert shape.parents[0] == 0
    assert all(parent < node for node, parent in enumerate(shape.parents) if node)
    for nodes in range(len(paths) + 1):
        start = TreeShape.from_paths(shape.paths[:nodes])
        assert start.parents == shape.parents[: nodes + 1]
        assert start.depths == depths_of(shape.parents[: nodes + 1])


@given(path_sets())
def test_a_node_sees_exactly_the_nodes_whose_path_begins_its_own(paths):
    shape = TreeShape.from_paths(paths)
    named = [(), *shape.paths]
    brute_TT = torch.tensor([[row[: len(column)] == column for column in named] for row in named])
    assert torch.equal(shape.ancestors_TT(), brute_TT)


def test_the_drawing_of_the_docstring():
    shape = TreeShape.from_paths([[0, 1], [1], [0], [0, 0]])
    assert shape.parents == (0, 0, 0, 1, 1)
    assert shape.depths == (0, 1, 1, 2, 2)
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 0, 1]]
    assert shape.ancestors_TT().int().tolist() == expected


@pytest.mark.parametrize("length", [0, 1, 6])
def test_a_chain_is_one_branch_of_first_choices(length):
    shape = TreeShape.chain(length)
    assert shape == TreeShape.from_paths([[0] * depth for depth in range(1, length + 1)])
    assert shape.depths == tuple(range(length + 1))
    assert torch.equal(ancestors_of(shape.parents), torch.ones(length + 1, length + 1, dtype=torch.bool).tril())


def test_no_paths_make_a_root_alone():
    shape = TreeShape.from_paths([])
    assert (len(shape), shape.parents, shape.height) == (1, (0,), 0)
    assert shape.ancestors_TT().tolist() == [[True]]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([[0], []], "tree: an empty path; the root is implied, so leave it out"),
        ([[0], [1], [0]], "tree: path [0] stands twice; remove one"),
        ([[0], [1, 2]], "tree: path [1, 2] has no parent; add [1] or remove it"),
        ([[0], [0, 0, 1]], "tree: path [0, 0, 1] has no parent; add [0, 0] or remove it"),
        ([[0], [0, -1]], "tree: path [0, -1] must hold whole ranks from 0"),
        ([[0], [1.5]], "tree: path [1.5] must hold whole ranks from 0"),
        ([[0], [0, 4]], "tree: path [0, 4] asks for rank 4, but the drafter gives 4 choices"),
    ],
)
def test_what_is_wrong_with_a_tree_is_told_in_one_line(paths, message):
    with pytest.raises(FalconError) as error:
        TreeShape.from_paths(paths, max_rank=4)
    assert str(error.value) == message


def test_ranks_are_unlimited_without_a_width_and_may_reach_the_width_less_one():
    assert TreeShape.from_paths([[99]]).ranks == (0, 99)
    assert TreeShape.from_paths([[3]], max_rank=4).ranks == (0, 3)


def test_the_last_nodes_of_a_path_end_with_the_node_itself():
    parents = (0, 0, 0, 1, 3)
    assert last_of_path(parents, 4, 1) == [4]
    assert last_of_path(parents, 4, 3) == [1, 3, 4]
    assert last_of_path(parents, 2, 2) == [0, 2]
