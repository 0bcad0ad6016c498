"""The plot of a run."""

import struct

import pytest

from falcon_cli.distill.training.curves import draw_curves, smooth


def steps(count, slots=2):
    return [{"step": step, "loss": 3 / (step + 1), "slots": [0.3, 0.2, 0.1][:slots]} for step in range(count)]


EVALUATIONS = [
    {"step": 5, "top1": [[0.2, 0.1, 0.1], [0.1, 0.1, 0.1]]},
    {"step": 10, "top1": [[0.3, 0.2, 0.1], [0.1, 0.1, 0.1]]},
]


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("evaluations", [EVALUATIONS, []])
def test_a_png_of_its_size_is_written(tmp_path, slots, evaluations):
    path = tmp_path / "curves.png"
    draw_curves(steps(12, slots), evaluations, path)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (1170, 468)


def test_the_curves_are_the_losses_and_each_slot_s_shares(tmp_path, monkeypatch):
    import matplotlib.figure as module

    figures = []
    save = module.Figure.savefig
    monkeypatch.setattr(module.Figure, "savefig", lambda figure, path: figures.append(figure) or save(figure, path))
    draw_curves(steps(12), EVALUATIONS, tmp_path / "curves.png")
    left, right = figures[0].axes
    assert list(left.lines[0].get_ydata()) == [line["loss"] for line in steps(12)]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in right.lines}
    assert drawn.keys() == {f"slot {slot}, {kind}" for slot in (1, 2) for kind in ("training", "held out")}
    assert drawn["slot 2, held out"] == ([5, 10], [10.0, 20.0])
    assert drawn["slot 1, training"][1] == pytest.approx([30.0] * 12)


def test_smooth_is_the_mean_of_the_last_values():
    assert smooth([1, 2, 3, 4, 8], 2) == pytest.approx([1, 1.5, 2.5, 3.5, 6])
    assert smooth([1, 2, 3], 1) == pytest.approx([1, 2, 3])
    assert smooth([], 3) == []
