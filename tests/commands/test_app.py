import gc
import subprocess
import sys

import pytest

import falcon_cli
from falcon_cli import __main__ as entry
from falcon_cli.commands import app
from falcon_cli.errors import FalconError


def test_version(falcon):
    assert falcon("--version") == (0, f"falcon {falcon_cli.__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["generate", "-h"], ["bench", "--help"]])
def test_help_is_a_success_on_stdout(falcon, words):
    outcome = falcon(*words)
    assert outcome.code == 0
    assert "Usage: falcon" in outcome.out
    assert outcome.err == ""


def test_no_command_is_wrong_usage_and_shows_the_help(falcon):
    outcome = falcon()
    assert outcome.code == 2
    assert "Commands" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fly"], "No such command 'fly'"),
        (["bench", "--metod", "pld"], "--metod"),
        (["bench", "--limit", "many"], "--limit"),
        (["generate", "--method"], "--method"),
    ],
)
def test_wrong_usage_is_one_line_that_points_to_the_help(falcon, words, part):
    outcome = falcon(*words)
    assert outcome.code == 2
    assert part in outcome.complaint
    assert outcome.complaint.endswith("--help")


@pytest.mark.parametrize("prompt", ["- list three colours", "-what?", "--what is it", "-hello there", "-10 + 3 ="])
def test_a_prompt_with_a_dash_is_told_of_the_two_dashes(falcon, prompt):
    complaint = falcon("generate", "--json", prompt).complaint
    assert (
        f'put -- before a prompt that begins with a dash, after the options: falcon generate -- "{prompt}"' in complaint
    )


def test_two_dashes_let_a_prompt_begin_with_a_dash(falcon, chat_target):
    outcome = falcon("generate", "--target", chat_target, "--max-new-tokens", 1, "--json", "--", "-what?")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("words", [["generate", "--metod"], ["generate", "-n", "5"], ["bench", "-what?"]])
def test_a_slip_of_an_option_is_not_taken_for_a_prompt(falcon, words):
    assert "put -- before" not in falcon(*words).complaint


def raising(problem):
    def run(words):
        raise problem

    return run


@pytest.mark.parametrize(
    ("problem", "code", "line"),
    [
        (FalconError("no wind: wait"), 1, "falcon: error: no wind: wait"),
        (KeyboardInterrupt(), 130, "falcon: stopped by Ctrl-C"),
        (ZeroDivisionError("oops"), 1, "falcon: error: ZeroDivisionError: oops; this is a bug of falcon's"),
    ],
)
def test_what_goes_wrong_leaves_as_one_line_and_a_code(falcon, monkeypatch, problem, code, line):
    monkeypatch.setattr(app, "run", raising(problem))
    outcome = falcon("bench")
    assert outcome.code == code
    assert outcome.err.startswith(line)
    assert outcome.err.count("\n") == 1


def test_debug_anywhere_lets_the_traceback_through(falcon, monkeypatch):
    monkeypatch.setattr(app, "run", raising(FalconError("no wind")))
    with pytest.raises(FalconError, match="no wind"):
        falcon("bench", "--limit", 1, "--debug")


@pytest.mark.parametrize("command", ["generate", "bench", "distill", "tune-tree"])
def test_the_help_needs_no_posix(command):
    code = """
import os, sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "fork", "getuid"):
    delattr(os, name)
from falcon_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True)
    assert (done.returncode, "Usage: " in done.stdout) == (0, True), done.stderr


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "falcon_cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"falcon {falcon_cli.__version__}\n", "")


def test_nothing_is_collected_before_a_target_is_there(monkeypatch):
    collects = []
    monkeypatch.setattr(entry, "run", lambda: collects.append(gc.isenabled()) or 3)
    try:
        with pytest.raises(SystemExit) as left:
            entry.main()
    finally:
        gc.enable()
    assert (collects, left.value.code) == ([False], 3)
