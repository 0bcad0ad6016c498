from matplotlib.figure import Figure

from falcon_cli.bench.reports.plots import speedup_chart


def draw(results, tmp_path, monkeypatch) -> Figure:
    """The chart as matplotlib holds it, once the file is written."""
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **named: (drawn.append(self), save(self, *args, **named))
    )
    speedup_chart(results, tmp_path / "speedup.png")
    return drawn[0]


def test_bars_are_the_speedups_fastest_first_and_peers_last(results, tmp_path, monkeypatch):
    (axes,) = draw(results, tmp_path, monkeypatch).axes
    assert (tmp_path / "speedup.png").read_bytes().startswith(b"\x89PNG")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["falcon", "eagle", "pld", "hf-pld", "hf"]
    every = {**results["methods"], **results["peers"]}
    expected = [
        value
        for name in ("falcon", "eagle", "pld", "hf-pld", "hf")
        for value in (every[name]["speedup"], every[name]["loop_free"]["speedup"])
    ]
    assert [bar.get_width() for bar in axes.patches] == expected


def test_a_speedup_that_does_not_exist_is_not_drawn(results, tmp_path, monkeypatch):
    missing = {"speedup": None, "speedup_ci95": [None, None]}
    results["methods"]["eagle"] |= missing
    results["methods"]["falcon"]["loop_free"] |= missing
    results["peers"] = {}
    (axes,) = draw(results, tmp_path, monkeypatch).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["falcon", "pld"]
    assert len(axes.patches) == 3


def test_a_run_of_the_baseline_alone(results, tmp_path):
    results["methods"] = {"ar": results["methods"]["ar"]}
    speedup_chart({**results, "peers": {}}, tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").stat().st_size > 0
