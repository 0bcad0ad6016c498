"""The speed that a tree should have on a machine, by a model of a drafter's ranks: docs/tuning-outlook.md's tables.

A node of rank r in slot s is right, given that its parent is, with chance first · rank^r · slot^(s−1); so a path is
with the product along it, and a tree accepts the sum over its nodes on average. The best tree of n nodes is the n
likeliest paths, no deeper than its passes reach. With the bonus token, tokens a second are

    (1 + accepted) / (verification of n + 1 nodes + drafting + rest)

    python -m falcon_cli.tune_tree.outlook
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush
from math import prod

from falcon_cli.console import emit
from falcon_cli.tree.passes import Pass, passes_of
from falcon_cli.tree.shape import Path, TreeShape
from falcon_cli.tune_tree.cost import CostTable
from falcon_cli.tune_tree.roofline import MACHINES, SHAPES, Machine, cost_table, fits

NODES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MOST_PASSES = 8
K_VALUES = (1, 2, 3, 4)
CONTEXT = 512
"""Tokens before a cycle: about the middle of an MT-Bench answer."""
PAPER_NODES = 120
"""Paths of the authors' published hand-made trees of height 8, the smallest of them: 118 to 166."""
EAGER = 70e-6
"""Seconds a kernel where transformers launches them from Python, an assumption: some 35 tokens/s of a 7B target."""


@dataclass(frozen=True)
class Chances:
    """How often a drafter is right."""

    first: float
    """Its first choice in slot 1, when everything before is right."""
    rank: float
    """Each further choice, as a share of the one before."""
    slot: float
    """Each later slot, as a share of the one before."""

    def of(self, rank: int, depth: int, k: int) -> float:
        """That a node is right when its parent is; `depth` counts from 0 for the root's children."""
        return float(self.first * self.rank**rank * self.slot ** (depth % k))

    def of_path(self, path: Path, k: int) -> float:
        """That a whole path is right."""
        return prod(self.of(rank, depth, k) for depth, rank in enumerate(path))


PAPER = Chances(first=0.755, rank=0.158, slot=0.8)
"""Fitted to the paper's ablations (Vicuna 7B, MT-Bench): `first` to tau 2.13 without tree attention (k = 2, a chain of
8), `rank` to 3.34 with it (the best tree of `PAPER_NODES` and 4 passes), `slot` to 2.35 of k = 4 (2 passes)."""


def accepted(shape: TreeShape, chances: Chances, k: int) -> float:
    """Drafted tokens that a cycle accepts on average (tau)."""
    return sum(chances.of_path(path, k) for path in shape.paths)


@lru_cache(maxsize=4096)
def best_tree(chances: Chances, k: int, nodes: int, passes: int) -> TreeShape:
    """The likeliest paths that so many passes draft; every parent is among them, as chances fall on the way down."""
    paths: list[Path] = []
    heap: list[tuple[float, Path]] = [(-chances.of(0, 0, k), (0,))]
    while len(paths) < nodes:
        negative, path = heappop(heap)
        paths.append(path)
        if len(path) < k * passes:
            heappush(heap, (negative * chances.of(0, len(path), k), (*path, 0)))
        heappush(heap, (negative * chances.rank, (*path[:-1], path[-1] + 1)))
    return TreeShape.from_paths(paths)


@dataclass(frozen=True)
class Foreseen:
    """A tree, and what it should bring."""

    nodes: int
    """Drafted, the root excluded."""
    passes: int
    accepted: float
    """Drafted tokens a cycle (tau)."""
    cycle_ms: float
    plain_ms: float
    """A token decoded plainly."""

    @property
    def tokens_per_second(self) -> float:
        """With the tree."""
        return 1e3 * (1 + self.accepted) / self.cycle_ms

    @property
    def speedup(self) -> float:
        """Against plain decoding."""
        return (1 + self.accepted) * self.plain_ms / self.cycle_ms


def foresee(table: CostTable, chances: Chances, k: int, shape: TreeShape, context: float = CONTEXT) -> Foreseen:
    """What a tree should bring on a machine."""
    passes = _passes(shape, k)
    cycle = table.cycle_ms(passes, len(shape), k, context)
    tau = accepted(shape, chances, k)
    return Foreseen(len(shape.paths), len(passes), tau, cycle, table.plain_ms(context))


def best(
    table: CostTable, chances: Chances, k: int, context: float = CONTEXT, nodes: Sequence[int] = NODES
) -> Foreseen:
    """The fastest of the best trees of so many nodes and of 1 to `MOST_PASSES` passes."""
    return max(_all(table, chances, k, context, nodes), key=lambda one: one.speedup)


def smallest(table: CostTable, chances: Chances, k: int, share: float = 0.98, context: float = CONTEXT) -> Foreseen:
    """The smallest tree (of those, the fastest) with so great a share of the best one's speed."""
    every = _all(table, chances, k, context, NODES)
    wanted = share * max(one.speedup for one in every)
    return min((one for one in every if one.speedup >= wanted), key=lambda one: (one.nodes, -one.speedup))


def machines_table(chances: Chances = PAPER) -> str:
    """Markdown: every machine, model and k."""
    rows = []
    for machine in MACHINES.values():
        for shape in SHAPES.values():
            table = cost_table(machine, shape)
            name = shape.name if fits(machine, shape) else f"{shape.name} (does not fit)"
            for k in K_VALUES:
                top, least = best(table, chances, k), smallest(table, chances, k)
                rows.append((machine.name, name, k, f"{1e3 / top.plain_ms:.1f}", *_cells(top), least.nodes))
    return _markdown(("machine", "target", "k", "plain tokens/s", *_HEADS, "nodes for 98 % of it"), rows)


def paper_table(chances: Chances = PAPER) -> str:
    """Markdown: the paper's heights and number of nodes on an H100, beside the paper's figures (H800)."""
    h100 = MACHINES["h100"]
    eager = replace(h100, launch=EAGER)
    rows = []
    for name, k, passes, tau, speedup in _PAPER_FIGURES:
        tree = best_tree(chances, k, PAPER_NODES, passes)
        tables = cost_table(h100, SHAPES[name]), cost_table(eager, SHAPES[name], mixer="position")
        graphs, launched = (foresee(table, chances, k, tree) for table in tables)
        told = "–" if tau is None else f"{tau:.2f}"
        speeds = (f"{one:.2f}x" for one in (speedup, launched.speedup, graphs.speedup))
        rows.append((name, k, passes, told, f"{graphs.accepted:.2f}", *speeds))
    speedups = "speedup, paper", "model, eager", "model, CUDA graphs"
    return _markdown(("target", "k", "passes", "tau, paper", "tau, model", *speedups), rows)


def chances_table(k_values: Iterable[int] = K_VALUES) -> str:
    """Markdown: H100, Vicuna 7B, drafters that are right more and less often."""
    table = cost_table(MACHINES["h100"], SHAPES["vicuna-7b"])
    rows = []
    for first in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        found = {k: best(table, replace(PAPER, first=first), k) for k in k_values}
        top = max(found, key=lambda k: found[k].speedup)
        rows.append((f"{first:.1f}", *(f"{one.speedup:.2f}x" for one in found.values()), top, *_cells(found[top])[:-1]))
    return _markdown(
        ("first", *(f"k = {k}" for k in k_values), "best k", *(f"its {head}" for head in _HEADS[:-1])), rows
    )


def changes_table() -> str:
    """Markdown: H100, Vicuna 7B, k = 2, one property of the machine changed at a time."""
    h100 = MACHINES["h100"]
    rows = []
    for name, change in _CHANGES.items():
        machine = change(h100)
        found = best(cost_table(machine, SHAPES["vicuna-7b"]), PAPER, 2)
        ridge = machine.flops * machine.flops_fraction / (machine.bandwidth * machine.bandwidth_fraction)
        rows.append((name, f"{ridge * machine.weight_bytes / 2:.0f}", f"{1e3 / found.plain_ms:.0f}", *_cells(found)))
    return _markdown(("H100 with", "nodes where arithmetic takes over", "plain tokens/s", *_HEADS), rows)


def main() -> None:
    """Print the page's tables."""
    emit("\n\n".join((paper_table(), machines_table(), changes_table(), chances_table())))


_HEADS = ("best nodes", "passes", "tokens/cycle", "speedup")
_PAPER_FIGURES = (
    ("vicuna-7b", 2, 4, 3.34, 3.10),
    ("vicuna-7b", 3, 2, 2.52, 2.96),
    ("vicuna-7b", 4, 2, 2.35, 2.86),
    ("vicuna-13b", 2, 4, None, 2.97),
)
"""Target, k, passes (height / k), tau and speedup on MT-Bench (Falcon, section 4)."""
_CHANGES: Mapping[str, Callable[[Machine], Machine]] = {
    "nothing changed": lambda one: one,
    "half the bandwidth": lambda one: replace(one, bandwidth=one.bandwidth / 2),
    "twice the bandwidth": lambda one: replace(one, bandwidth=one.bandwidth * 2),
    "twice the peak": lambda one: replace(one, flops=one.flops * 2),
    "a quarter of the peak": lambda one: replace(one, flops=one.flops / 4),
    "a 16th of the peak": lambda one: replace(one, flops=one.flops / 16),
    "a 64th of the peak": lambda one: replace(one, flops=one.flops / 64),
    "no launches, no rest": lambda one: replace(one, launch=0.0, rest=0.0),
    "10 µs a launch": lambda one: replace(one, launch=10e-6),
    "70 µs a launch (eager transformers)": lambda one: replace(one, launch=EAGER),
    "3 ms of rest": lambda one: replace(one, rest=3e-3),
}


@lru_cache(maxsize=4096)
def _passes(shape: TreeShape, k: int) -> tuple[Pass, ...]:
    return passes_of(shape, k, chained=True)


def _all(table: CostTable, chances: Chances, k: int, context: float, nodes: Sequence[int]) -> list[Foreseen]:
    return [
        foresee(table, chances, k, best_tree(chances, k, count, passes), context)
        for count in nodes
        for passes in range(1, MOST_PASSES + 1)
    ]


def _cells(one: Foreseen) -> tuple[str, ...]:
    return str(one.nodes), str(one.passes), f"{1 + one.accepted:.2f}", f"{one.speedup:.2f}x"


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
