"""The only module that prints: results go to stdout, everything for human eyes to stderr.

rich is imported only when something is drawn, so that `falcon --help` stays quick.
"""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from falcon_cli.errors import FalconError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn, TaskID

_BOLD_RED = "1;31"
_BOLD_YELLOW = "1;33"
_LOG_WIDTH = 120  # columns of a table that goes to a file or a pipe, which have no width of their own


def say(text: str) -> None:
    """Tell the user one line, on stderr; of several processes that work together only the first speaks."""
    if _leads():
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell the user, on one line of stderr, of something that is not as it should be but does not stop the work."""
    say(f"falcon: {_label('warning:', _BOLD_YELLOW)} {_one_line(text)}")


def error(text: str) -> None:
    """Tell the user, on one line of stderr, why the work stops."""
    print(f"falcon: {_label('error:', _BOLD_RED)} {_one_line(text)}", file=sys.stderr, flush=True)


def exit_code_of(work: Callable[[], int], debug: bool = False) -> int:
    """Run a program; turn what goes wrong into one line on stderr and an exit code (`falcon_cli/errors.py`).

    Args:
        work: the program; returns the exit code where all goes well.
        debug: let errors through, with their tracebacks.
    """
    try:
        return work()
    except KeyboardInterrupt:
        say("falcon: stopped by Ctrl-C")
        return 130
    except BrokenPipeError:  # nobody reads on, as after `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 0
    except Exception as problem:
        if debug:
            raise
        if isinstance(problem, FalconError):
            error(str(problem))
            return problem.exit_code
        error(f"{type(problem).__name__}: {problem}; this is a bug of falcon's: --debug shows where")
        return 1


def emit(text: str, end: str = "\n") -> None:
    """Write result text to stdout at once.

    Characters that stdout's encoding lacks are written as backslash escapes.

    Raises:
        BrokenPipeError: nobody reads stdout any more; the command line ends quietly on it.
    """
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write((text + end).encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def emit_json(document: object) -> None:
    """Write a JSON document to stdout, on one line.

    It is pure ASCII where stdout's encoding is not UTF-8, and where a text holds half a character (a lone surrogate),
    which no encoding has.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
        BrokenPipeError: nobody reads stdout any more.
    """
    narrow = codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8"
    line = _json_line(document, ascii_only=narrow)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = _json_line(document, ascii_only=True)
    emit(line)


def show(renderable: RenderableType) -> None:
    """Print something rich can draw, such as a table, on stderr."""
    _stderr().print(renderable)


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout, rather than a file or a pipe."""
    return sys.stdout.isatty()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table as text; the first columns are left-aligned, the others right-aligned."""
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def duration(hours: float) -> str:
    """`2.3 h`, `12 min` or `40 s`."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


class Bar:
    """A progress bar on stderr; draws nothing where stderr is no terminal."""

    def __init__(self, drawing: Progress | None = None, task: TaskID | None = None) -> None:
        self._drawing = drawing
        self._task = task

    def advance(self, n: float = 1) -> None:
        """Count `n` more units as done."""
        if self._drawing is not None and self._task is not None:
            self._drawing.advance(self._task, n)

    def update(self, completed: float | None = None, note: str | None = None) -> None:
        """Set how many units are done, and the short remark at the bar's end; None leaves either as it is."""
        if self._drawing is not None and self._task is not None:
            self._drawing.update(self._task, completed=completed)
            if note is not None:
                self._drawing.update(self._task, note=note)


@contextmanager
def progress(description: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
    """Show a bar with elapsed and remaining time while the block runs.

    Args:
        description: what is being done; where stderr is no terminal, this one line is all that is shown.
        total: how many units there are to do; None when nobody knows.
        unit: the units' name; `"B"` counts bytes and is shown in kB, MB, GB.
    """
    if not sys.stderr.isatty() or not _leads():
        say(f"{description} ({total / 1e6:,.1f} MB)" if unit == "B" and total else description)
        yield Bar()
        return
    from rich.progress import Progress

    with Progress(*_columns(unit), console=_stderr()) as drawing:
        yield Bar(drawing, drawing.add_task(description, total=total, note=""))


def _columns(unit: str) -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    text = TextColumn("{task.description}", markup=False)
    note = TextColumn("{task.fields[note]}", markup=False)
    firm = Column(no_wrap=True)  # in a narrow window the bar gives way first
    count: list[ProgressColumn] = [MofNCompleteColumn(table_column=firm), TextColumn(unit, markup=False)]
    if unit == "B":
        count = [DownloadColumn(table_column=firm)]
    time = [TimeElapsedColumn(table_column=firm), TextColumn("eta"), TimeRemainingColumn(table_column=firm)]
    return [text, BarColumn(), *count, *time, note]


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else _LOG_WIDTH)


def _label(text: str, colour: str) -> str:
    """Colour `text` for a terminal, unless the user asked for none (https://no-color.org)."""
    plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"


def _leads() -> bool:
    """Whether this is the first, or the only, process of a launch (torchrun, accelerate)."""
    return os.environ.get("RANK", "0") == "0"


def _json_line(document: object, ascii_only: bool) -> str:
    return json.dumps(document, allow_nan=False, ensure_ascii=ascii_only, separators=(",", ":"))


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
