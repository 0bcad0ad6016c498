import pytest

from falcon_cli.bench.reports.wording import circumstances, gigabytes, interval, percent, time_shares, times, verdict


def test_speedups_and_shares():
    assert times(1.416) == "1.42x"
    assert times(None) == "–"
    assert percent(0.125) == "12 %"
    assert (gigabytes(1_254_000_000), gigabytes(None)) == ("1.25 GB", "–")


@pytest.mark.parametrize(("bounds", "words"), [([1.349, 1.5], "[1.35, 1.50]"), ([1.0, 1.0], ""), ([None, None], "")])
def test_intervals(bounds, words):
    assert interval(bounds) == words


def test_time_shares_add_up():
    figures = {"decode_seconds": 4.0, "draft_seconds": 1.0, "verify_seconds": 2.5}
    assert time_shares(figures) == (0.25, 0.625, 0.125)
    assert time_shares({"decode_seconds": 0.0}) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("kind", "divergences", "words"),
    [("exact", 0, "exact"), ("near-ties", 1, "1 near-tie"), ("near-ties", 3, "3 near-ties"), ("FAILED", 2, "FAILED")],
)
def test_verdicts(kind, divergences, words):
    assert verdict({"lossless": {"verdict": kind, "divergences": [{}] * divergences}}) == words
    assert verdict({}) == "–"


def test_circumstances(results):
    words = circumstances({**results, "prompts": 1})
    assert words == "SmolLM2-135M-Instruct · float32 on cpu, 2 threads · mt-bench, 1 prompt"
