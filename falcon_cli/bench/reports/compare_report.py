"""The comparison of answer files, drawn on the terminal and as `compare.md`."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from falcon_cli.bench.reports.wording import ABSENT, times
from falcon_cli.console import markdown_table

_COUNTING = """\
- Only questions that every file answers are compared. The first file is the baseline.
- Speedup, tokens/s: total new_tokens over total wall_time, which holds prefill in these files.
- Tokens per cycle: total new_tokens over total decoding steps; τ is one less.
- The Spec-Bench columns count as its evaluation/speed.py does (https://github.com/hemingkx/Spec-Bench): the mean of the
  questions' rates; the baseline's tokens, but not a method's, are those of its text tokenised afresh, less one a turn;
  accepted is the mean of accept_lengths.
- Texts equal: questions on which a file says what the baseline says, but for white space at the ends.
"""


def compare_table(comparison: dict[str, Any]) -> Table:
    """Draw the comparison's document (`--json`) as a table of about 100 columns."""
    drawn = Table(
        box=box.HORIZONTALS,
        caption=_circumstances(comparison),
        caption_justify="left",
        header_style="dim",
        border_style="dim",
    )
    drawn.add_column("\nfile", overflow="fold", max_width=32)
    headings = ("\nspeedup", "\ntok/s", "tok/\ncycle", "\nτ", "Spec-Bench:\nspeedup", "\ntok/s", "\naccepted")
    for heading in headings:
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("texts\nequal", justify="right", no_wrap=True)
    for figures in comparison["files"]:
        name, *cells, equal = _cells(figures, comparison["questions"])
        style = "green" if figures["texts_equal"] == comparison["questions"] else "yellow"
        drawn.add_row(Text(name), *cells, Text(equal, style=style))
    return drawn


def compare_markdown(comparison: dict[str, Any], command: str) -> str:
    """Write the comparison's document as `compare.md`.

    Args:
        comparison: the whole document.
        command: the command line that made it.
    """
    head = ["file", "speedup", "tokens/s", "tokens/cycle", "τ"]
    head += ["Spec-Bench: speedup", "tokens/s", "accepted", "texts equal"]
    rows = [_cells(figures, comparison["questions"]) for figures in comparison["files"]]
    text = f"# Answer files compared\n\n```sh\n{command}\n```\n\n{_circumstances(comparison)}\n\n"
    text += markdown_table(head, ((f"`{name}`", *cells) for name, *cells in rows))
    if comparison["warnings"]:
        text += "\n## Warnings\n\n" + "".join(f"- {warning}\n" for warning in comparison["warnings"])
    return text + f"\n## How things are counted\n\n{_COUNTING}"


def _cells(figures: dict[str, Any], questions: int) -> list[str]:
    """One file's row: its name, the figures, how many texts are equal."""
    theirs = figures["spec_bench"]
    return [
        figures["name"],
        times(figures["speedup"]),
        _number(figures["tokens_per_second"], 1),
        _number(figures["tokens_per_cycle"], 2),
        _number(figures["accepted_length"], 2),
        times(theirs["speedup"]),
        _number(theirs["tokens_per_second"], 1),
        _number(theirs["mean_accepted_tokens"], 2),
        f"{figures['texts_equal']}/{questions}",
    ]


def _circumstances(comparison: dict[str, Any]) -> str:
    held = ", ".join(f"{figures['questions']:,}" for figures in comparison["files"])
    return f"questions in every file: {comparison['questions']:,} (of {held}) · tokenizer of {comparison['target']}"


def _number(figure: float | None, digits: int) -> str:
    return ABSENT if figure is None else f"{figure:.{digits}f}"
