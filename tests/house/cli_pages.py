"""Writes docs/cli/*.md from the real `--help`: `make docs`. The help test compares them.

The width is fixed and there is no colour, so that a page does not depend on who writes it.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "cli"
COMMANDS: dict[str, list[str]] = {
    "falcon": [],
    **{name: [name] for name in ("distill", "tune-tree", "generate", "bench")},
}
PLAIN = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "TERM": "dumb", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
LOUD = ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")


def page(name: str) -> str:
    """The Markdown page of one command."""
    words = [*COMMANDS[name], "--help"]
    environment = {**{key: value for key, value in os.environ.items() if key not in LOUD}, **PLAIN}
    done = subprocess.run(
        [sys.executable, "-m", "falcon_cli", *words], env=environment, capture_output=True, check=True
    )
    text = "\n".join(line.rstrip() for line in done.stdout.decode().strip().splitlines())
    title = " ".join(["falcon", *COMMANDS[name]])
    return f"# {title}\n\nAs `{title} --help` prints it; written by `make docs`.\n\n```text\n{text}\n```\n"


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        (FOLDER / f"{name}.md").write_text(page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
