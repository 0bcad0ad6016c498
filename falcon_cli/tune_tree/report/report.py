"""A tuning for people: on the terminal, as Markdown, as pictures."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from falcon_cli.console import say
from falcon_cli.errors import FalconError
from falcon_cli.tree.sketch import sketch
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.report.document import DYNAMIC, Tuning, document, to_json_line
from falcon_cli.tune_tree.report.plots import Measured, Point, heat_map, speed_curve, tree_picture
from falcon_cli.tune_tree.search.candidates import TreeCandidate, frontier
from falcon_cli.tune_tree.search.copies import CopyCandidate

_SHOWN = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Sizes of the frontier that a table shows."""


def tables(tuning: Tuning) -> list[Table]:
    """The frontier, and the runs where there were any."""
    return [_drawn(*_frontier(tuning))] + ([_drawn(*_proof(tuning))] if tuning.contenders else [])


def verdict(tuning: Tuning) -> str:
    """What came of it, in a line or two and a drawing."""
    winner, name = tuning.winner, tuning.winner_name
    if winner is None:
        how = "" if tuning.measured else ", as predicted"
        return (
            f"plain decoding is faster here than with any tree{how}: --tree auto will decode plainly{_copying(tuning)}"
        )
    if outcome := tuning.measured.get(str(name)):
        speed, kept = f"{outcome.speedup:.2f}x plain decoding, measured", "--tree auto takes it from now on"
    else:
        speed = f"{winner.tokens_per_second / tuning.plain_predicted:.2f}x plain decoding, predicted"
        kept = f"on {tuning.table.device} use it with --tree {tuning.folder}/tree.json"
    told = f"{name} wins: {speed}; {kept}{_copying(tuning)}"
    return f"{told}\n\n{sketch(winner.shape, winner.k, winner.probabilities)}\n"


def _copying(tuning: Tuning) -> str:
    """What `falcon:copy=auto` does from now on."""
    one, name = tuning.copying, tuning.copier_name
    if one is None:
        return ""
    if name is None:
        return "; copies are not worth their price here"
    how = "measured" if tuning.measured else "predicted"
    nodes = f"a tree of {len(one.shape.paths)}" if one.shape.paths else "no tree"
    tokens = f"up to {one.tokens} token{'s'[: one.tokens > 1]} after {one.ngram} repeated"
    ratio = tuning.speed(name) / tuning.speed(PLAIN)
    return f"; falcon:copy=auto copies {tokens}, beside {nodes}: {ratio:.2f}x, {how}"


def write(tuning: Tuning) -> None:
    """Put report, results and pictures into the folder.

    Raises:
        FalconError: It cannot be written.
    """
    folder = TuningFolder(tuning.folder)
    folder.put("results.json", to_json_line(tuning) + "\n")
    folder.put("report.md", markdown(tuning))
    try:
        _draw(tuning, folder.path)
    except OSError as error:
        raise FalconError(f"cannot write the pictures into {folder.path}: {error.strerror}") from error
    say(f"wrote {folder.path}/report.md, results.json, tree.json, costs.json and pictures")


def markdown(tuning: Tuning) -> str:
    """The whole report."""
    told = document(tuning)
    drafts = ", ".join(f"{count:,} drafts for k = {k}" for k, count in told["calibration"]["drafts"].items())
    parts = [
        "# A tree, tuned",
        f"{tuning.setting}. Ranks on greedy answers to {tuning.recipe.prompts} prompts of {tuning.recipe.dataset}: "
        f"{drafts}; {tuning.context:.0f} tokens before a draft on average. Costs: {tuning.table.device}.",
        "## Best tree of each size, predicted",
        _marked(*_frontier(tuning)[1:]),
    ]
    if tuning.contenders:
        parts += [f"## {_proof(tuning)[0]}", _marked(*_proof(tuning)[1:])]
    winner = tuning.winner
    parts += ["## Winner", verdict(tuning).partition("\n")[0]]
    if winner is not None:
        parts += [f"```\n{sketch(winner.shape, winner.k, winner.probabilities)}\n```", "![tree](tree.svg)"]
    parts += ["![tokens a second by size](speed.png)", "![acceptance by depth and rank](ranks.png)"]
    machine = told["machine"]
    parts += [f"```sh\n{shlex.join(machine['command'])}\n```", f"{machine['cpu']}, {machine['date'][:10]}"]
    return "\n\n".join(parts) + "\n"


Rows = list[list[str]]


def _frontier(tuning: Tuning) -> tuple[str, list[str], Rows]:
    head = ["nodes", "k", "passes", "rows ≤", "tokens/cycle", "cycle ms", "tokens/s", "speedup"]
    plain = tuning.plain_predicted
    rows = [["plain", "", "", "", "1.00", f"{1000 / plain:.1f}", f"{plain:.1f}", "1.00x"]]
    best = frontier(tuning.found)
    top = max(best, key=lambda one: one.tokens_per_second, default=None)
    for one in best:
        if one.nodes in _SHOWN or one is top:
            cells = [str(one.nodes), str(one.k), str(one.passes), str(one.rows or "all"), f"{one.tokens_per_cycle:.2f}"]
            cells += [f"{one.cycle_ms:.1f}", f"{one.tokens_per_second:.1f}", f"{one.tokens_per_second / plain:.2f}x"]
            rows.append(cells)
    return f"best tree of each size, predicted for {tuning.table.device}", head, rows


def _proof(tuning: Tuning) -> tuple[str, list[str], Rows]:
    head = ["", "tokens/s predicted", "measured", "tokens/cycle predicted", "measured", "speedup", "lossless"]
    rows = [_proof_row(tuning, PLAIN, None)]
    rows += [_proof_row(tuning, name, one) for name, one in tuning.contenders.items()]
    rows += [_proof_row(tuning, name, one) for name, one in tuning.copy_candidates.items()]
    if not tuning.measured:
        return "finalists, not run here", head, rows
    return f"run for real, interleaved, on {tuning.measured[PLAIN].prompts} other prompts", head, rows


def _proof_row(tuning: Tuning, name: str, one: TreeCandidate | CopyCandidate | None) -> list[str]:
    outcome = tuning.measured.get(name)
    speed, cycle = (one.tokens_per_second, one.tokens_per_cycle) if one else (tuning.plain_predicted, 1.0)
    if outcome is None:
        return [name, f"{speed:.1f}", "–", f"{cycle:.2f}", "–", f"{speed / tuning.plain_predicted:.2f}x", "–"]
    predicted = name != DYNAMIC
    alike = "exact" if outcome.alike == outcome.prompts else f"{outcome.prompts - outcome.alike} answers differ"
    cells = [f"{speed:.1f}" if predicted else "–", f"{outcome.tokens_per_second:.1f}"]
    cells += [f"{cycle:.2f}" if predicted else "–", f"{outcome.tokens_per_cycle:.2f}"]
    return [name, *cells, f"{outcome.speedup:.2f}x", alike]


def _drawn(title: str, head: Sequence[str], rows: Rows) -> Table:
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, header_style="dim", border_style="dim")
    for number, name in enumerate(head):
        first = number == 0
        table.add_column(name, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*row)
    return table


def _marked(head: Sequence[str], rows: Rows) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _draw(tuning: Tuning, folder: Path) -> None:
    winner = tuning.winner or next(iter(tuning.finalists), None)
    if winner is None:
        return
    for suffix in ("svg", "png"):
        title = f"{tuning.winner_name or 'best tree'}: {winner.tokens_per_cycle:.2f} tokens a cycle"
        tree_picture(winner.shape, winner.k, winner.probabilities, title, folder / f"tree.{suffix}")
    profile = tuning.profiles[winner.k]
    depth = winner.k * tuning.recipe.passes
    probabilities = profile.probabilities(depth)
    share_PR = torch.tensor(
        [[probabilities.share(d, r) for r in range(probabilities.width)] for d in range(1, depth + 1)]
    )
    heat_map(share_PR, winner.k, "Which of the drafter's choices is right", folder / "ranks.png")
    points = [Point(one.nodes, one.passes, one.tokens_per_second) for one in _by_passes(tuning, winner.k)]
    dots = [
        Measured(one.nodes, one.tokens_per_second, tuning.measured[name].tokens_per_second, _dot(tuning, name))
        for name, one in tuning.contenders.items()
        if name in tuning.measured and name != DYNAMIC
    ]
    plain = tuning.measured[PLAIN].tokens_per_second if tuning.measured else tuning.plain_predicted
    speed_curve(points, dots, plain, "Tokens a second by size of tree", folder / "speed.png")


def _dot(tuning: Tuning, name: str) -> str:
    """A short name, for trees that want one."""
    return "winner" if name == tuning.winner_name else name if name in tuning.others else ""


def _by_passes(tuning: Tuning, k: int) -> list[TreeCandidate]:
    """The fastest candidates of each size and number of passes."""
    mine = [one for one in tuning.found if one.k == k]
    numbers = sorted({one.passes for one in mine})
    return [one for number in numbers for one in frontier(other for other in mine if other.passes == number)]
