import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.tree import sketch as module
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.sketch import percent, sketch

DRAWN = [[0], [1], [2], [0, 0], [0, 1], [0, 2], [0, 3], [0, 0, 0], [0, 0, 1], [0, 0, 0, 0]]
CHANCES = [1, 0.62, 0.14, 0.06, 0.41, 0.09, 0.05, 0.02, 0.30, 0.04, 0.21]


@st.composite
def shapes(draw):
    paths = [()]
    for _ in range(draw(st.integers(0, 40))):
        path = (*draw(st.sampled_from(paths)), draw(st.integers(0, 12)))
        if path not in paths:
            paths.append(path)
    return TreeShape.from_paths(paths[1:])


def read(text):
    """The paths, forks and percentages of a sketch, line by line."""
    lines = text.split("\n")
    paths, way = [], []
    for line in lines[lines.index("  root") + 1 :]:
        margin, fork, first, last, rest = re.fullmatch(r"  ([ │]*)([├└╞╘][─═]) (\d+)(?:–(\d+))?(.*)", line).groups()
        depth = len(margin) // 3 + 1
        ranks = range(int(first), int(last or first) + 1)
        paths.append(([(*way[: depth - 1], rank) for rank in ranks], fork, re.findall(r"\d+ %", rest)))
        way = [*way[: depth - 1], int(first)]
    return paths


@given(shapes(), st.integers(1, 5), st.booleans())
def test_every_path_stands_there_once_with_its_chance_and_children_below_their_parent(shape, k, told):
    probabilities = [1.0, *(0.9 / node for node in range(1, len(shape)))] if told else None
    lines = read(sketch(shape, k, probabilities))
    drawn = [path for paths, _, _ in lines for path in paths]
    assert drawn == sorted(shape.paths)
    for paths, _, figures in lines:
        at = [shape.paths.index(path) + 1 for path in paths]
        assert figures == ([percent(probabilities[node]).removeprefix("<") for node in at] if told else [])


@given(shapes(), st.integers(1, 5))
def test_doubled_forks_and_the_head_mark_where_passes_begin(shape, k):
    text = sketch(shape, k)
    for paths, fork, _ in read(text):
        depth = len(paths[0])
        assert (fork[1] == "═") == (depth > 1 and depth % k == (1 % k))
    if shape.height:
        passes, slots = text.split("\n")[:2]
        for depth in range(1, shape.height + 1):
            column = 5 + 3 * (depth - 1)
            number, slot = divmod(depth - 1, k)
            assert slots[column] == str(slot + 1)
            assert passes[column : column + 3].strip() == ("" if slot else str(number + 1))


@given(shapes(), st.integers(1, 5))
def test_childless_siblings_of_successive_ranks_share_a_line_and_nothing_else_does(shape, k):
    grown = {path[:-1] for path in shape.paths}
    lines = [paths for paths, _, _ in read(sketch(shape, k))]
    assert all(not grown.intersection(paths) for paths in lines if len(paths) > 1)
    ends, starts = {paths[-1] for paths in lines} - grown, {paths[0] for paths in lines} - grown
    assert not [path for path in ends if (*path[:-1], path[-1] + 1) in starts]


@given(shapes())
def test_a_tree_of_up_to_twenty_depths_fits_a_terminal(shape):
    if shape.height <= 20:
        assert max(map(len, sketch(shape, 2, [0.99] * len(shape)).split("\n"))) <= 80


def test_the_drawing_of_the_docstring():
    drawn = sketch(TreeShape.from_paths(DRAWN), 2, CHANCES)
    assert "".join(f"    {line}\n" for line in drawn.split("\n")) in module.__doc__


def test_a_bar_is_as_long_as_its_chance():
    lines = sketch(TreeShape.from_paths([[0], [0, 0], [0, 0, 0]]), 3, [1.0, 1.0, 0.5, 0.0]).split("\n")
    assert [line.count("█") for line in lines[3:]] == [36, 18, 0]


def test_a_wide_run_is_cut_where_the_terminal_ends():
    lines = read(sketch(TreeShape.from_paths([[rank] for rank in range(30)]), 2, [0.5] * 31))
    assert [len(paths) for paths, _, _ in lines] == [11, 11, 8]


def test_percentages():
    assert [percent(probability) for probability in (1.0, 0.624, 0.0051, 0.005, 0.0)] == [
        "100 %",
        "62 %",
        "1 %",
        "<1 %",
        "0 %",
    ]


def test_the_root_alone_and_chances_of_another_tree():
    assert sketch(TreeShape.chain(0), 2, [1.0]) == "  root"
    with pytest.raises(ValueError, match="2 chances for 4 nodes"):
        sketch(TreeShape.chain(3), 2, [1.0, 0.5])
