"""The `falcon` command: its sub-commands, and how errors leave it.

Exit codes: 0 done · 1 something to put right (one line says what) · 2 wrong usage · 3 output that is not the target's
own · 130 Ctrl-C.
"""

import os
import re
import sys
from typing import Any

import typer
from typer.main import get_command

from falcon_cli.commands import options
from falcon_cli.commands.bench import bench
from falcon_cli.commands.distill import distill
from falcon_cli.commands.generate import generate
from falcon_cli.commands.tune_tree import tune_tree
from falcon_cli.console import error, exit_code_of

app = typer.Typer(
    help="Lossless speculative decoding: generate a model's own greedy text faster, and prove it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command()(distill)
app.command("tune-tree")(tune_tree)
app.command()(generate)
app.command()(bench)

_WrongUsage: Any = (
    typer.BadParameter.__base__
)  # click's UsageError: newer typers carry a copy of click, so only typer can name it


@app.callback()
def common(debug: options.DebugOption = False, version: options.VersionOption = False) -> None:
    """Options of every command."""


def main() -> int:
    """Run the command line; returns the exit code. `--debug` is taken anywhere."""
    if "_FALCON_COMPLETE" in os.environ:  # a shell asks how to go on
        get_command(app)(prog_name="falcon")
    words = sys.argv[1:]
    debug = "--debug" in words
    return exit_code_of(lambda: run([word for word in words if word != "--debug"]), debug)


def run(words: list[str]) -> int:
    """Run one command; typer's own handling of Ctrl-C and of closed pipes stays out of it."""
    command = get_command(app)
    try:
        with command.make_context("falcon", words) as context:
            command.invoke(context)
    except typer.Abort as stopped:
        raise KeyboardInterrupt from stopped
    except typer.Exit as done:
        return done.exit_code
    except _WrongUsage as problem:
        if message := problem.format_message():  # none where the help was shown instead
            at = problem.ctx.command_path if problem.ctx else "falcon"
            error(f"{message.rstrip('. ')}; {_dash_hint(problem, words)}see {at} --help")
        return 2
    return 0


def _dash_hint(problem: Any, words: list[str]) -> str:
    """What to do where the unknown option looks like a prompt: it is a word of several letters, close to no option."""
    option = getattr(problem, "option_name", None)
    if not option or getattr(problem, "possibilities", None) or words[0] != "generate":
        return ""
    long = option.startswith("--")
    word = next((w for w in words if (w.startswith(option) if long else re.match(r"-[^-]", w) and option[1] in w)), "")
    if len(word) < 3:
        return ""
    shown = word if len(word) <= 40 else f"{word[:40]}..."
    return f'put -- before a prompt that begins with a dash, after the options: falcon generate -- "{shown}"; '
