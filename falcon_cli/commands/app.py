"""The `falcon` command: its sub-commands, and how errors leave it.

Exit codes: 0 done · 1 something to put right (one line says what) · 2 wrong usage · 3 `bench` found output that is not
the target's own · 130 Ctrl-C.
"""

import os
import sys
from typing import Annotated

import click
import typer
from typer import rich_utils

from falcon_cli import __version__
from falcon_cli.commands.bench import bench
from falcon_cli.commands.generate import generate
from falcon_cli.console import emit, error, say
from falcon_cli.errors import FalconError

app = typer.Typer(
    help="Lossless speculative decoding: generate a model's own greedy text faster, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command()(generate)
app.command()(bench)


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"falcon {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> int:
    """Run the command line; returns the exit code. `--debug` is taken anywhere."""
    words = sys.argv[1:]
    debug = "--debug" in words
    try:
        return app([word for word in words if word != "--debug"], standalone_mode=False) or 0
    except click.ClickException as problem:
        rich_utils.rich_format_error(problem)
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("falcon: stopped by Ctrl-C; what was done is kept")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 0
    except FalconError as problem:
        if debug:
            raise
        error(str(problem))
        return problem.exit_code
