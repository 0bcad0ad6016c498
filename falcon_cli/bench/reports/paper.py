"""The paper's tables (Gao et al., arXiv 2412.12639), our figures beside its own.

The two come from other targets on other machines, so a cell of ours and a cell of the paper's are never one figure:
headings say whose each is, and the lines below what ours was run on. Only figures of the paper that are written down
here are shown, all others as a dash.

    row       a method's name in the results, or its label (`falcon:drafter=DIR as k=3`)
    column    one figure of ours, or one of the paper's

Pure functions of results documents (`--json`), one a data set.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from falcon_cli.bench.reports.wording import ABSENT, interval, percent, questions, setting, times
from falcon_cli.console import markdown_table

Figures = dict[str, Any]
Documents = Mapping[str, dict[str, Any]]
"""Data set → its results document."""

SOURCE = "arXiv 2412.12639"
_HOW = "on one H800, batch 1, greedy"
_SETS = ("mt-bench", "humaneval", "gsm8k")


@dataclass(frozen=True)
class OurColumn:
    """A column of our figures."""

    heading: str
    """Broken into lines as on the terminal."""
    word: Callable[[Figures], str]


@dataclass(frozen=True)
class PaperColumn:
    """A column of the paper's figures."""

    heading: str
    cells: Mapping[tuple[str, str], str]
    """(data set, row) → the figure."""


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables."""

    title: str
    own: tuple[OurColumn, ...]
    published: tuple[PaperColumn, ...]
    absent: str
    """What a dash in the paper's columns means."""
    rows: tuple[str, ...] = ()
    """Rows that the paper has; further methods follow. None: the methods as they come."""
    notes: tuple[str, ...] = ()


def _paper(target: str, cells: Mapping[tuple[str, str], str], what: str = "") -> PaperColumn:
    return PaperColumn(f"paper{what}: {target} {_HOW}", cells)


def _falcon(*figures: str) -> dict[tuple[str, str], str]:
    """Falcon's figures on the three data sets, one for all or one each."""
    each = figures * len(_SETS) if len(figures) == 1 else figures
    return {(dataset, "falcon"): figure for dataset, figure in zip(_SETS, each, strict=True)}


def _ablation(rows: tuple[str, ...], figures: tuple[str, ...]) -> dict[tuple[str, str], str]:
    return {("mt-bench", row): figure for row, figure in zip(rows, figures, strict=True)}


_SPEEDUP = (
    OurColumn("ours:\nspeedup [95 %]", lambda own: f"{times(own['speedup'])} {interval(own['speedup_ci95'])}".strip()),
    OurColumn("ours:\nloop-free\nspeedup", lambda own: times(own["loop_free"]["speedup"])),
)
_TAU = OurColumn("ours:\nτ", lambda own: f"{own['accepted_length']:.2f}")
_RIVALS = "not the paper's, or a rival of Falcon's, whose cells are in the paper's own Tables 1-3"
_NO_ROW = "not in that table; in our columns, not measured"
_ALL = "Falcon's range over four targets and three data sets,"
_PARTS = ("chain", "chain+csgd", "tree", "tree+csgd")
_BLOCKS = ("k=2", "k=3", "k=4")

TABLES: dict[int, PaperTable] = {
    1: PaperTable(
        "Speedup over plain decoding",
        _SPEEDUP,
        (
            _paper("Vicuna-7B", _falcon("3.10x", "3.21x", "2.92x")),
            _paper("Vicuna-13B", _falcon("2.97x", "3.12x", "3.13x")),
            _paper("LLaMA2-Chat-7B", _falcon("2.94x", "2.95x", "2.91x")),
            _paper("LLaMA2-Chat-13B", _falcon("3.11x", "3.51x", "3.10x")),
        ),
        _RIVALS,
    ),
    2: PaperTable(
        "Acceptance rate α",
        (
            OurColumn("ours:\nα", lambda own: percent(own["acceptance_rate"])),
            OurColumn("ours:\nloop-free α", lambda own: percent(own["loop_free"]["acceptance_rate"])),
        ),
        (_paper(_ALL, _falcon("74–80 %"), " α"),),
        _RIVALS,
    ),
    3: PaperTable(
        "Accepted length τ, and tokens per cycle",
        (
            _TAU,
            OurColumn("ours:\ntokens/cycle\n= τ + 1", lambda own: f"{own['tokens_per_cycle']:.2f}"),
            OurColumn("ours:\nloop-free τ", lambda own: f"{own['loop_free']['tokens_per_cycle'] - 1:.2f}"),
            OurColumn("ours:\nloop-free\ntokens/cycle", lambda own: f"{own['loop_free']['tokens_per_cycle']:.2f}"),
        ),
        (_paper(_ALL, _falcon("2.8–4.0"), " τ"),),
        _RIVALS,
        notes=(
            "τ here never counts the bonus token, tokens per cycle always do. The paper's Table 3 mixes the two: its "
            "three EAGLE cells for Vicuna-7B include the bonus token, as α = 1 − 1/(τ + 1) shows with the α of its "
            "Table 2.",
        ),
    ),
    4: PaperTable(
        "The tree and glancing distillation (CSGD), without, alone and together",
        (*_SPEEDUP, _TAU),
        (
            _paper("Vicuna-7B", _ablation(_PARTS, ("2.06x", "2.27x", "2.65x", "3.10x")), " speedup"),
            _paper("Vicuna-7B", _ablation(_PARTS, ("1.64", "2.13", "2.78", "3.34")), " τ"),
        ),
        _NO_ROW,
        _PARTS,
    ),
    5: PaperTable(
        "Tokens a pass, k",
        (*_SPEEDUP, _TAU),
        (
            _paper("Vicuna-7B", _ablation(_BLOCKS, ("3.10x", "2.96x", "2.86x")), " speedup"),
            _paper("Vicuna-7B", _ablation(_BLOCKS, ("3.34", "2.52", "2.35")), " τ"),
        ),
        _NO_ROW,
        _BLOCKS,
    ),
}


def markdown(number: int, documents: Documents) -> str:
    """Write one of the paper's tables as Markdown.

    Args:
        number: the paper's number of it, 1 to 5.
        documents: data set → results document.
    """
    head = ["data set", "method", *_headings(TABLES[number])]
    rows = [[dataset, f"`{name}`", *cells] for dataset, name, *cells in _rows(TABLES[number], documents)]
    lines = "".join(f"- {line}\n" for line in _lines(number, documents))
    return f"# {_title(number)}\n\n{markdown_table(head, rows, left=2)}\n{lines}"


def drawn(number: int, documents: Documents) -> Table:
    """Draw one of the paper's tables for the terminal; the paper's figures are dim."""
    paper = TABLES[number]
    table = Table(
        box=box.HORIZONTALS,
        title=_title(number),
        title_justify="left",
        caption=Text("\n".join(_lines(number, documents))),
        caption_justify="left",
        header_style="dim",
        border_style="dim",
        collapse_padding=True,
    )
    table.add_column("data set", no_wrap=True)
    table.add_column("method", overflow="fold", max_width=22)
    for own in paper.own:
        table.add_column(own.heading, justify="right", no_wrap=True)
    for published in paper.published:
        table.add_column(published.heading, justify="right", style="dim", overflow="fold")
    before = None
    for dataset, name, *cells in _rows(paper, documents):
        if dataset != before:
            table.add_section()
        table.add_row(dataset if dataset != before else "", Text(name), *cells)
        before = dataset
    return table


def check_identity(name: str, figures: Figures) -> None:
    """Assert α = 1 − 1/(τ + 1) and tokens per cycle = τ + 1, which tell one way of counting τ from the other."""
    for kind, one in (("", figures), (" loop-free", figures["loop_free"])):
        alpha, emitted = one["acceptance_rate"], one["tokens_per_cycle"]
        assert isclose(alpha, 1 - 1 / emitted, abs_tol=1e-9), f"{name}{kind}: α {alpha}, tokens per cycle {emitted}"
    tau, emitted = figures["accepted_length"], figures["tokens_per_cycle"]
    assert isclose(emitted, tau + 1, abs_tol=1e-9), f"{name}: τ {tau}, tokens per cycle {emitted}"


def _title(number: int) -> str:
    return f"{TABLES[number].title}: ours beside Table {number} of {SOURCE}"


def _headings(paper: PaperTable) -> list[str]:
    return [*(own.heading.replace("\n", " ") for own in paper.own), *(one.heading for one in paper.published)]


def _rows(paper: PaperTable, documents: Documents) -> Iterator[list[str]]:
    """Data set, method, our figures, the paper's; what only the paper has gets dashes for ours."""
    for dataset, results in documents.items():
        methods = results["methods"]
        for name in dict.fromkeys([*paper.rows, *methods]):
            published = [column.cells.get((dataset, name), ABSENT) for column in paper.published]
            if name in methods:
                check_identity(name, methods[name])
                yield [dataset, name, *(column.word(methods[name]) for column in paper.own), *published]
            elif published != [ABSENT] * len(published):
                yield [dataset, name, *[ABSENT] * len(paper.own), *published]


def _lines(number: int, documents: Documents) -> list[str]:
    """What stands under a table: what ours was run on, where the paper's come from, and what to beware of."""
    return [
        *_circumstances(documents),
        f"paper: {SOURCE}, Table {number}: its own targets on its own machine. A dash: {TABLES[number].absent}",
        *_lossy(documents),
        *TABLES[number].notes,
    ]


def _circumstances(documents: Documents) -> list[str]:
    """One line where all data sets were run alike, else one for each way."""
    asked: dict[tuple[str, str], list[str]] = {}
    for results in documents.values():
        where = f"{setting(results)} · {results['machine'].get('cpu', 'unknown processor')}"
        limit = f"at most {results['settings']['max_new_tokens']} new tokens a turn"
        asked.setdefault((where, limit), []).append(questions(results))
    return [f"ours: {where} · {'; '.join(sets)} · {limit}" for (where, limit), sets in asked.items()]


def _lossy(documents: Documents) -> list[str]:
    """A speedup of text that is not the target's own is none."""
    failed = [
        f"{name} on {dataset}"
        for dataset, results in documents.items()
        for name, figures in results["methods"].items()
        if figures.get("lossless", {}).get("verdict") == "FAILED"
    ]
    return [f"NOT the target's own output, so no speedup at all: {', '.join(failed)}"] if failed else []
