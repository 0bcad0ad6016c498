"""The results on the terminal: one row per method, peers below a line."""

from rich import box
from rich.table import Table
from rich.text import Text

from falcon_cli.bench.figures.document import MethodFigures, PeerFigures, ResultsDocument
from falcon_cli.bench.figures.summary import BASELINE
from falcon_cli.bench.reports.wording import (
    ABSENT,
    alike,
    circumstances,
    interval,
    percent,
    time_shares,
    times,
    verdict,
)
from falcon_cli.target.reference.hold import told

_VERDICT_STYLES = {"exact": "green", "near-ties": "yellow", "FAILED": "bold red"}


def table(results: ResultsDocument) -> Table:
    """Draw the results document (`--json`) as a table of about 100 columns; the fastest method is bold."""
    drawn = Table(
        box=box.HORIZONTALS,
        caption=_caption(results),
        caption_justify="left",
        header_style="dim",
        border_style="dim",
        collapse_padding=True,
    )
    drawn.add_column("\nmethod", overflow="fold", max_width=22)  # a method's settings are part of its name
    drawn.add_column("speedup\n[95 %]", no_wrap=True)
    for heading in ("\ntok/s", "tok/\ncycle", "\nτ", "\nα", "time: draft/\nverify/other"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("loop-free\nspeedup", justify="right", no_wrap=True)
    drawn.add_column("loop-free\ntok/cycle", justify="right", no_wrap=True)
    drawn.add_column("\nlossless", no_wrap=True)
    methods, peers = results["methods"], results["peers"]
    fastest = max(methods, key=lambda name: methods[name]["speedup"] or 0.0, default=None)
    for name, figures in methods.items():
        drawn.add_row(*_method_cells(name, figures), style="bold" if name == fastest and name != BASELINE else "")
    drawn.add_section()
    for name, peer in peers.items():
        drawn.add_row(*_peer_cells(name, peer, results["prompts"]))
    return drawn


def _method_cells(name: str, figures: MethodFigures) -> list[str | Text]:
    loop_free = figures["loop_free"]
    return [
        Text(name),
        _speedup(figures),
        f"{figures['tokens_per_second']:.1f}",
        f"{figures['tokens_per_cycle']:.2f}",
        f"{figures['accepted_length']:.2f}",
        percent(figures["acceptance_rate"]),
        "/".join(f"{100 * share:.0f}" for share in time_shares(figures)) + " %",
        times(loop_free["speedup"]),
        f"{loop_free['tokens_per_cycle']:.2f}",
        _verdict(figures),
    ]


def _peer_cells(name: str, figures: PeerFigures, prompts: int) -> list[str | Text]:
    unknown = Text(ABSENT, style="dim")
    rate = f"{figures['tokens_per_second']:.1f}"
    loop_free = times(figures["loop_free"]["speedup"])
    return [
        Text(name),
        _speedup(figures),
        rate,
        *[unknown] * 4,
        loop_free,
        unknown,
        Text(alike(figures, prompts), style="dim"),
    ]


def _speedup(figures: MethodFigures | PeerFigures) -> Text:
    return Text.assemble(times(figures["speedup"]), " ", (interval(figures["speedup_ci95"]), "dim not bold"))


def _verdict(figures: MethodFigures) -> Text:
    style = _VERDICT_STYLES[figures["lossless"]["verdict"]] if "lossless" in figures else "dim"
    return Text(verdict(figures), style=style)


def _caption(results: ResultsDocument) -> str:
    lines = [circumstances(results)]
    if reference := results.get("reference"):
        lines.append(told(reference))
    plain = results["methods"].get(BASELINE)
    if plain is not None:
        share = percent(plain["loop_free"]["loop_share"])
        lines.append(f"{plain['tokens']:,} tokens after prefill, {share} of them in loops")
    bound = results["machine"].get("bandwidth_bound_tokens_per_second")
    if bound:
        lines.append(f"reading all weights once a token, as memory is now, gives {bound:.1f} tok/s at most")
    return "\n".join(lines)
