import heapq
import math
import re

import matplotlib
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.transforms import Bbox

from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.report.plots import Measured, Point, heat_map, speed_curve, tree_picture

SHAPE = TreeShape.from_paths([[0], [1], [2], [0, 0], [0, 3], [1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0, 7]])
CHANCES = [1.0, 0.6, 0.2, 0.05, 0.4, 0.05, 0.04, 0.3, 0.02, 0.01]
POINTS = [Point(16, 2, 90.0), Point(8, 1, 70.0), Point(8, 2, 75.0), Point(16, 1, 72.0), Point(32, 1, 60.0)]
MEASURED = [Measured(16, 90.0, 84.0, "tuned"), Measured(8, 70.0, 71.0, "default")]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws to a file and gives the figure, as it was when saved, and the file."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **named: (figures.append(self), save(self, *args, **named))
    )

    def draw(plot, *args, suffix=".png"):
        path = tmp_path / f"plot{suffix}"
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            plot(*args, path)
        return figures[-1], path

    return draw


def words(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    "plot",
    [
        (tree_picture, SHAPE, 2, CHANCES, "The title"),
        (heat_map, torch.tensor([[0.7, 0.2]]), 2, "The title"),
        (speed_curve, POINTS, MEASURED, 40.0, "The title"),
    ],
)
def test_the_suffix_picks_the_format(plot, drawn):
    assert drawn(*plot)[1].read_bytes().startswith(b"\x89PNG")
    text = drawn(*plot, suffix=".svg")[1].read_text(encoding="utf-8")
    assert "<svg" in text
    assert ">The title</text>" in text


def test_a_node_is_as_large_as_its_chance_and_coloured_by_its_slot(drawn):
    (axes,) = drawn(tree_picture, SHAPE, 2, CHANCES, "")[0].axes
    (nodes,) = (one for one in axes.collections if isinstance(one, PathCollection))
    assert nodes.get_sizes() / nodes.get_sizes()[0] == pytest.approx(CHANCES)
    colours = [tuple(colour) for colour in nodes.get_facecolors()]
    assert len(set(colours)) == 3
    for node, depth in enumerate(SHAPE.depths[1:], start=1):
        assert colours[node] == colours[1 if depth % 2 else 4]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["slot 1", "slot 2"]


def test_edges_join_parents_to_children_and_passes_stand_in_bands(drawn):
    (axes,) = drawn(tree_picture, SHAPE, 2, CHANCES, "")[0].axes
    at = [tuple(place) for place in axes.collections[0].get_offsets()]
    edges = [patch.get_path().vertices for patch in axes.patches if isinstance(patch, PathPatch)]
    ends = {(tuple(edge[0]), tuple(edge[-1])) for edge in edges}
    assert ends == {(at[SHAPE.parents[node]], at[node]) for node in range(1, len(SHAPE))}
    bands = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    for node, depth in enumerate(SHAPE.depths):
        held = [
            number
            for number, band in enumerate(bands, start=1)
            if band.get_x() < at[node][0] < band.get_x() + band.get_width()
        ]
        assert held == ([(depth + 1) // 2] if node else [])
    assert [text for text in words(axes) if text.startswith("pass")] == ["pass 1", "pass 2"]
    assert sorted(text for text in words(axes) if text.isdigit()) == sorted(map(str, SHAPE.ranks[1:]))


def chance_of(path):
    return math.prod(0.6 * 0.35**rank for rank in path)


def likeliest(nodes):
    """The tree of the likeliest nodes, most of them too small to hold their rank."""
    heap, best = [(-1.0, ())], []
    while len(best) < nodes:
        probability, path = heapq.heappop(heap)
        best.append(path)
        for rank in range(9):
            heapq.heappush(heap, (probability * 0.6 * 0.35**rank, (*path, rank)))
    return TreeShape.from_paths(best[1:])


@pytest.mark.parametrize("shape", [TreeShape.chain(0), TreeShape.chain(5), SHAPE, *map(likeliest, (6, 16, 32, 64))])
def test_nothing_overlaps_and_nothing_is_clipped(shape, drawn):
    probabilities = [chance_of(path) for path in ((), *shape.paths)]
    figure, _ = drawn(tree_picture, shape, 2, probabilities, "A title that is somewhat longer than the tree is wide")
    (axes,) = figure.axes
    at, sizes = axes.collections[0].get_offsets(), axes.collections[0].get_sizes()
    radii = [size**0.5 / 144 for size in sizes]
    for one in range(len(shape)):
        for other in range(one):
            assert math.dist(at[one], at[other]) > radii[one] + radii[other]
    discs = [
        Bbox([(x - radius, y - radius), (x + radius, y + radius)]).transformed(axes.transData)
        for (x, y), radius in zip(at, radii, strict=True)
    ]
    boxes = [text.get_window_extent() for text in axes.texts]
    first = words(axes).index("root")
    for node, box in enumerate(boxes[first : first + len(shape)]):
        assert not [other for other, disc in enumerate(discs) if other != node and box.overlaps(disc)]
    for place, box in enumerate(boxes):
        assert axes.bbox.fully_contains(*box.min)
        assert axes.bbox.fully_contains(*box.max)
        assert not [other for other in boxes[:place] if box.overlaps(other)]


def test_the_heat_map_shows_a_percentage_from_one_percent_and_twelve_ranks_at_most(drawn):
    shares = torch.zeros(5, 20)
    shares[:, 0] = torch.tensor([0.7, 0.6, 0.5, 0.4, 0.3])
    shares[2, 11], shares[2, 12], shares[3, 1], shares[3, 2] = 0.02, 0.9, 0.01, 0.009
    (axes,) = drawn(heat_map, shares, 2, "")[0].axes
    said = {text.get_position(): text.get_text() for text in axes.texts}
    expected = {(0, depth): f"{70 - 10 * depth} %" for depth in range(5)}
    assert said == expected | {(11, 2): "2 %", (1, 3): "1 %"}
    assert torch.equal(torch.tensor(axes.images[0].get_array().data), shares[:, :12].double())
    assert [line.get_ydata()[0] for line in axes.lines] == [1.5, 3.5]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "depth 1 (pass 1, slot 1)"
    assert names[2:4] == ["depth 3 (pass 2, slot 1)", "depth 4 (pass 2, slot 2)"]


def test_the_heat_map_as_text(drawn):
    _, path = drawn(heat_map, torch.tensor([[0.62, 0.14], [0.5, 0.1], [0.4, 0.004]]), 2, "", suffix=".svg")
    assert re.findall(r">(\d+ %)<", path.read_text(encoding="utf-8")) == ["62 %", "14 %", "50 %", "10 %", "40 %"]


def test_a_line_for_each_number_of_passes_and_dots_hanging_on_their_predictions(drawn):
    (axes,) = drawn(speed_curve, POINTS, MEASURED, 40.0, "")[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["1 pass"] == [[8, 70], [16, 72], [32, 60]]
    assert lines["2 passes"] == [[8, 75], [16, 90]]
    assert {height for _, height in lines["plain decoding"]} == {40.0}
    assert lines["measured"] == [[16, 84], [8, 71]]
    stems = [line.get_xydata().tolist() for line in axes.lines if line.get_label().startswith("_")]
    assert stems == [[[16, 90], [16, 84]], [[8, 70], [8, 71]]]
    assert words(axes) == ["tuned", "default"]
    (legend,) = axes.figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["1 pass", "2 passes", "plain decoding", "measured"]


def test_names_of_dots_that_crowd_stay_apart_and_inside(drawn):
    crowd = [Measured(16, 90.0, 84.0 + number, f"tree number {number}") for number in range(4)]
    (axes,) = drawn(speed_curve, POINTS, [*crowd, Measured(32, 60.0, 61.0, "at the edge")], 40.0, "")[0].axes
    boxes = [text.get_window_extent() for text in axes.texts]
    for place, box in enumerate(boxes):
        assert not [other for other in boxes[:place] if box.overlaps(other)]
        assert axes.bbox.fully_contains(*box.min)
        assert axes.bbox.fully_contains(*box.max)


def test_predictions_without_measurements(drawn):
    figure, _ = drawn(speed_curve, POINTS[:1], [], 40.0, "")
    assert "measured" not in [text.get_text() for text in figure.legends[0].get_texts()]
