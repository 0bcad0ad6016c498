"""`falcon bench --compare`."""

import shlex
import sys
from pathlib import Path
from typing import Any

from falcon_cli.commands import options
from falcon_cli.commands.shared import SharedOptions, refuse

_TOKENIZER = ("target", "revision", "trust_remote_code", *options.RECIPE)
"""Shared options that say whose tokenizer it is."""


def compare(files: list[str], shared: SharedOptions, unused: dict[str, Any], out: Path | None, json: bool) -> None:
    """Compare answer files of Spec-Bench's format with the first of them; nothing is run."""
    refuse({**unused, **shared.values}, _TOKENIZER, "--compare reads answer files and runs nothing")
    from falcon_cli.bench.figures.compare import compare as compared
    from falcon_cli.bench.reports.compare_report import compare_markdown, compare_table
    from falcon_cli.console import emit_json, say, show, warn
    from falcon_cli.recipe.provenance import provenance
    from falcon_cli.recipe.run_folder import write_text
    from falcon_cli.recipe.schema import BenchRecipe

    comparison = compared(files, shared.recipe(BenchRecipe).target)
    show(compare_table(comparison))
    for warning in comparison["warnings"]:
        warn(warning)
    if out:
        write_text(out / "compare.md", compare_markdown(comparison, shlex.join(provenance(sys.argv)["command"])))
        say(f"wrote {out}/compare.md")
    if json:
        emit_json(comparison)
