import io
import json
import subprocess
import sys

import pytest

from falcon_cli import console
from falcon_cli.console import duration, markdown_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in stderr's place; called in the test, for pytest puts its own there after the fixtures."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_results_go_to_stdout_and_all_else_to_stderr(capsys):
    console.emit("result")
    console.emit("no newline", end="")
    console.say("[said]")
    console.warn("careful")
    console.error("two\nlines")
    console.show("[bold]table[/bold]")
    with console.progress("counting", total=3, unit="tokens") as bar:
        bar.advance()
        bar.update(completed=3, note="done")
    out, err = capsys.readouterr()
    assert out == "result\nno newline"
    assert err.splitlines() == [
        "[said]",
        "falcon: warning: careful",
        "falcon: error: two lines",
        "table",
        "counting",
    ]


def test_labels_are_coloured_only_for_a_terminal_that_wants_it(monkeypatch):
    stderr = terminal(monkeypatch)
    console.error("bad")
    assert stderr.getvalue() == "falcon: \x1b[1;31merror:\x1b[0m bad\n"
    monkeypatch.setenv("NO_COLOR", "1")
    console.error("bad")
    assert stderr.getvalue().endswith("\nfalcon: error: bad\n")


@pytest.mark.parametrize(("unit", "shown"), [("tokens", " tokens "), ("B", "7/10 bytes")])
def test_a_terminal_sees_a_bar(monkeypatch, unit, shown):
    stderr = terminal(monkeypatch)
    with console.progress("reading [x]", total=10, unit=unit) as bar:
        bar.advance(3)
        bar.update(note="nearly")
        bar.update(completed=7)
    for part in ("reading [x]", shown, "7/10", "nearly", "eta"):
        assert part in stderr.getvalue()


def test_the_end_of_the_reader_reaches_the_caller(monkeypatch):
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        console.emit("text")


def test_a_narrow_encoding_does_not_stop_a_result(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.emit("é")
    assert raw.getvalue() == b"\\xe9\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16", "utf-8", "utf8"])
def test_json_is_json_in_any_encoding(monkeypatch, encoding):
    raw, document = io.BytesIO(), {"text": "é \U0001f600", "n": [1, None]}
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    console.emit_json(document)
    line = raw.getvalue().decode(encoding)
    assert json.loads(line) == document
    assert line.count("\n") == 1
    assert line.isascii() == (encoding not in ("utf-8", "utf8"))


def test_json_with_half_a_character_is_json(monkeypatch):
    raw, document = io.BytesIO(), {"é": "\ud83d", "\ude00": 1}
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    console.emit_json(document)
    assert json.loads(raw.getvalue()) == document
    assert raw.getvalue().isascii()


def test_json_has_no_infinite_number():
    with pytest.raises(ValueError, match="JSON"):
        console.emit_json({"rate": float("inf")})


def test_stdout_is_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert console.stdout_is_terminal()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not console.stdout_is_terminal()


def test_importing_it_loads_neither_rich_nor_torch():
    code = "import sys, falcon_cli.console as c; c.say('x'); sys.exit(bool({'rich', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_bar_fits_a_narrow_terminal(monkeypatch):
    stderr = terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    with console.progress("downloading a-package-with-a-name", total=93_000_000, unit="B") as bar:
        bar.update(completed=46_500_000)
    assert "46.5/93.0 MB" in stderr.getvalue()
    assert stderr.getvalue().count("\n") == 1


def test_a_download_without_a_terminal_tells_its_size(capsys):
    with console.progress("downloading it", total=93_000_000, unit="B"):
        pass
    assert capsys.readouterr().err == "downloading it (93.0 MB)\n"


def test_of_several_processes_only_the_first_speaks_and_all_complain(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    console.say("hello")
    console.warn("careful")
    with console.progress("working", 3, "steps") as bar:
        bar.advance()
    assert capsys.readouterr().err == ""
    console.error("broken")
    assert "falcon: error: broken" in capsys.readouterr().err


@pytest.mark.parametrize(("hours", "text"), [(2.345, "2.3 h"), (0.2, "12 min"), (0.01, "36 s")])
def test_durations_read_well(hours, text):
    assert duration(hours) == text


def test_a_markdown_table_aligns_its_columns_and_escapes_bars():
    assert markdown_table(["name", "x"], [["a|b", "1"]]) == "| name | x |\n| --- | ---: |\n| a\\|b | 1 |\n"
    assert markdown_table(["a", "b", "c"], [], left=2).splitlines()[1] == "| --- | --- | ---: |"
