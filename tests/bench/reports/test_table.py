import io
from typing import Any

from rich.console import Console

from falcon_cli.bench.reports.table import table


def draw(results: dict[str, Any], colour: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=110, force_terminal=colour, color_system="standard" if colour else None).print(
        table(results)
    )
    return out.getvalue()


def row(drawn: str, name: str) -> str:
    return next(line for line in drawn.splitlines() if line.split()[:1] == [name])


def test_it_fits_and_nothing_is_cut(results):
    drawn = draw(results)
    assert max(map(len, drawn.splitlines())) <= 110
    assert "…" not in drawn


def test_every_method_shows_its_figures(results):
    drawn = draw(results)
    for name, figures in results["methods"].items():
        line = row(drawn, name)
        assert f"{figures['speedup']:.2f}x" in line
        assert f"{figures['loop_free']['speedup']:.2f}x" in line
        assert f"{figures['tokens_per_cycle']:.2f}" in line
    low, high = results["methods"]["falcon"]["speedup_ci95"]
    assert f"[{low:.2f}, {high:.2f}]" in row(drawn, "falcon")


def test_peers_stand_below_a_line(results):
    lines = [line.strip() for line in draw(results).splitlines()]
    names = [line.split()[0] if line.split() else "" for line in lines]
    between = lines[names.index("pld") + 1 : names.index("hf")]
    assert len(between) == 1
    assert set(between[0]) == {"─"}


def test_a_peer_says_how_many_prompts_it_answered_alike(results):
    assert row(draw(results), "hf").strip().endswith("11 of 12 alike")
    del results["peers"]["hf"]["prompts_equal"]
    assert row(draw(results), "hf").strip().endswith("–")


def test_verdicts_have_their_colours(results):
    drawn = draw(results, colour=True)
    assert "\x1b[32mexact" in drawn
    assert "\x1b[33m2 near-ties" in drawn
    assert "\x1b[1;31mFAILED" in drawn


def test_the_caption_tells_loops_and_the_bound(results):
    drawn = draw(results)
    assert "float32 on cpu, 2 threads" in drawn
    assert "% of them in loops" in drawn
    assert "48.2 tok/s" in drawn
    assert "reference: near-tie at token 21 (margin 3.5e-05)" in drawn
    del results["machine"]["bandwidth_bound_tokens_per_second"]
    del results["reference"]  # a document of earlier days
    assert "bound" not in draw(results)
    assert "reference" not in draw(results)


def test_a_run_without_peers_baseline_or_speedups(results):
    falcon = results["methods"]["falcon"] | {"speedup": None, "speedup_ci95": [None, None]}
    del falcon["lossless"]
    drawn = draw({**results, "methods": {"falcon": falcon}, "peers": {}})
    assert "–" in row(drawn, "falcon")
