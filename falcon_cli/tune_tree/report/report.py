"""A tuning result for people: on the terminal, as Markdown, as pictures."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from falcon_cli.console import markdown_table, say
from falcon_cli.errors import FalconError
from falcon_cli.tree.sketch import sketch
from falcon_cli.tune_tree.folder import TuningFolder
from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.report.document import document, to_json_line
from falcon_cli.tune_tree.report.plots import Measured, Point, heat_map, speed_curve, tree_picture
from falcon_cli.tune_tree.result import TuningResult
from falcon_cli.tune_tree.search.candidates import TreeCandidate, frontier
from falcon_cli.tune_tree.search.copies import CopyCandidate
from falcon_cli.tune_tree.search.search import DYNAMIC

_SHOWN = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Sizes of the frontier that a table shows."""

Rows = list[list[str]]


def tables(result: TuningResult) -> list[Table]:
    """The frontier, and the contenders where there are any."""
    shown = [_rich(*_frontier(result))]
    return [*shown, _rich(*_validation(result))] if result.contenders else shown


def verdict(result: TuningResult) -> str:
    """The winner in a line or two and a drawing."""
    winner, name = result.winner, result.winner_name
    if winner is None:
        how = "" if result.measured else ", as predicted"
        line = f"plain decoding is faster here than with any tree{how}: --tree auto will decode plainly"
        return line + _copying(result)
    if measured := result.measured.get(str(name)):
        speed, use = f"{measured.speedup:.2f}x plain decoding, measured", "--tree auto takes it from now on"
    else:
        speedup = winner.tokens_per_second / result.search.plain_tokens_per_second
        speed = f"{speedup:.2f}x plain decoding, predicted"
        use = f"on {result.search.costs.device} use it with --tree {result.folder}/tree.json"
    line = f"{name} wins: {speed}; {use}{_copying(result)}"
    return f"{line}\n\n{sketch(winner.shape, winner.k, winner.probabilities)}\n"


def _copying(result: TuningResult) -> str:
    """What `falcon:copy=auto` does from now on."""
    policy, name = result.copy_policy, result.copy_name
    if policy is None:
        return ""
    if name is None:
        return "; copies are not worth their price here"
    how = "measured" if result.measured else "predicted"
    nodes = f"a tree of {len(policy.shape.paths)}" if policy.shape.paths else "no tree"
    tokens = f"up to {policy.tokens} token{'s'[: policy.tokens > 1]} after {policy.ngram} repeated"
    ratio = result.speed(name) / result.speed(PLAIN)
    return f"; falcon:copy=auto copies {tokens}, beside {nodes}: {ratio:.2f}x, {how}"


def write(result: TuningResult) -> None:
    """Put report, results and pictures into the folder.

    Raises:
        FalconError: It cannot be written.
    """
    folder = TuningFolder(result.folder)
    folder.put("results.json", to_json_line(result) + "\n")
    folder.put("report.md", markdown(result))
    try:
        _draw(result, folder.path)
    except OSError as error:
        raise FalconError(f"cannot write the pictures into {folder.path}: {error.strerror}") from error
    say(f"wrote {folder.path}/report.md, results.json, tree.json, costs.json and pictures")


def markdown(result: TuningResult) -> str:
    """The whole report."""
    facts = document(result)
    drafts = ", ".join(f"{count:,} drafts for k = {k}" for k, count in facts["calibration"]["drafts"].items())
    parts = [
        "# A tree, tuned",
        f"{result.setting}. Ranks on greedy answers to {result.recipe.prompts} prompts of {result.recipe.dataset}: "
        f"{drafts}; {result.search.context:.0f} tokens before a draft on average. Costs: {result.search.costs.device}.",
        "## Best tree of each size, predicted",
        markdown_table(*_frontier(result)[1:]).rstrip(),
    ]
    if result.contenders:
        title, head, rows = _validation(result)
        parts += [f"## {title}", markdown_table(head, rows).rstrip()]
    winner = result.winner
    parts += ["## Winner", verdict(result).partition("\n")[0]]
    if winner is not None:
        parts += [f"```\n{sketch(winner.shape, winner.k, winner.probabilities)}\n```", "![tree](tree.svg)"]
    parts += ["![tokens a second by size](speed.png)", "![acceptance by depth and rank](ranks.png)"]
    machine = facts["machine"]
    parts += [f"```sh\n{shlex.join(machine['command'])}\n```", f"{machine['cpu']}, {machine['date'][:10]}"]
    return "\n\n".join(parts) + "\n"


def _frontier(result: TuningResult) -> tuple[str, list[str], Rows]:
    """Title, head and rows: plain decoding, then the best tree of each size."""
    head = ["nodes", "k", "passes", "rows ≤", "tokens/cycle", "cycle ms", "tokens/s", "speedup"]
    plain = result.search.plain_tokens_per_second
    rows = [["plain", "", "", "", "1.00", f"{1000 / plain:.1f}", f"{plain:.1f}", "1.00x"]]
    best = frontier(result.search.trees)
    fastest = max(best, key=lambda tree: tree.tokens_per_second, default=None)
    for tree in best:
        if tree.nodes in _SHOWN or tree is fastest:
            speed = tree.tokens_per_second
            cells = [str(tree.nodes), str(tree.k), str(tree.passes), str(tree.rows or "all")]
            cells += [f"{tree.tokens_per_cycle:.2f}", f"{tree.cycle_ms:.1f}", f"{speed:.1f}", f"{speed / plain:.2f}x"]
            rows.append(cells)
    return f"best tree of each size, predicted for {result.search.costs.device}", head, rows


def _validation(result: TuningResult) -> tuple[str, list[str], Rows]:
    """Title, head and rows: plain decoding, then every contender."""
    head = ["", "tokens/s predicted", "measured", "tokens/cycle predicted", "measured", "speedup", "lossless"]
    rows = [_validation_row(result, PLAIN, None)]
    rows += [_validation_row(result, name, tree) for name, tree in result.contenders.items()]
    rows += [_validation_row(result, name, copies) for name, copies in result.search.copy_candidates.items()]
    if not result.measured:
        return "finalists, not run here", head, rows
    return f"run for real, interleaved, on {result.measured[PLAIN].prompts} other prompts", head, rows


def _validation_row(result: TuningResult, name: str, contender: TreeCandidate | CopyCandidate | None) -> list[str]:
    """The cells of one contender; None is plain decoding."""
    measured, plain = result.measured.get(name), result.search.plain_tokens_per_second
    speed, cycle = (contender.tokens_per_second, contender.tokens_per_cycle) if contender else (plain, 1.0)
    if measured is None:
        return [name, f"{speed:.1f}", "–", f"{cycle:.2f}", "–", f"{speed / plain:.2f}x", "–"]
    predicted = name != DYNAMIC
    alike = "exact" if measured.alike == measured.prompts else f"{measured.prompts - measured.alike} answers differ"
    cells = [f"{speed:.1f}" if predicted else "–", f"{measured.tokens_per_second:.1f}"]
    cells += [f"{cycle:.2f}" if predicted else "–", f"{measured.tokens_per_cycle:.2f}"]
    return [name, *cells, f"{measured.speedup:.2f}x", alike]


def _rich(title: str, head: Sequence[str], rows: Rows) -> Table:
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, header_style="dim", border_style="dim")
    for number, name in enumerate(head):
        first = number == 0
        table.add_column(name, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*row)
    return table


def _draw(result: TuningResult, folder: Path) -> None:
    """The pictures of the winner; of the first finalist where plain decoding is faster."""
    drawn = result.winner or next(iter(result.search.finalists), None)
    if drawn is None:
        return
    for suffix in ("svg", "png"):
        title = f"{result.winner_name or 'best tree'}: {drawn.tokens_per_cycle:.2f} tokens a cycle"
        tree_picture(drawn.shape, drawn.k, drawn.probabilities, title, folder / f"tree.{suffix}")
    depth = drawn.k * result.recipe.passes
    probabilities = result.search.profiles[drawn.k].probabilities(depth)
    shares = torch.tensor(
        [[probabilities.share(d, r) for r in range(probabilities.width)] for d in range(1, depth + 1)]
    )
    heat_map(shares, drawn.k, "Which of the drafter's choices is right", folder / "ranks.png")
    points = [Point(tree.nodes, tree.passes, tree.tokens_per_second) for tree in _by_passes(result, drawn.k)]
    dots = [
        Measured(tree.nodes, tree.tokens_per_second, result.measured[name].tokens_per_second, _label(result, name))
        for name, tree in result.contenders.items()
        if name in result.measured and name != DYNAMIC
    ]
    speed_curve(points, dots, result.speed(PLAIN), "Tokens a second by size of tree", folder / "speed.png")


def _label(result: TuningResult, name: str) -> str:
    """A short name for the trees that get one."""
    return "winner" if name == result.winner_name else name if name in result.search.other_trees else ""


def _by_passes(result: TuningResult, k: int) -> list[TreeCandidate]:
    """The fastest candidates of each size and number of passes."""
    trees = [tree for tree in result.search.trees if tree.k == k]
    numbers = sorted({tree.passes for tree in trees})
    return [best for number in numbers for best in frontier(tree for tree in trees if tree.passes == number)]
