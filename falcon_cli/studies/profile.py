"""Where a cycle's time goes: `make profile` (keys of a bench recipe).

torch's profiler tells what each operator took, ranges around target and drafter tell for whom. What no operator took
is Python. The profiler itself slows Python and small operators: the cycle's length is measured without it, in the same
run, and the shares are of the profiled time.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from falcon_cli.bench.measuring.session import BenchmarkSession
from falcon_cli.console import show
from falcon_cli.core import Draft, Drafter, Scores, Target, Verdict
from falcon_cli.data.datasets import load
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.methods.defaults import default_methods
from falcon_cli.methods.grammar import choose, load_context
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe

PREFILL, TARGET, DRAFTER, TREE, HEAD = (f"falcon/{name}" for name in ("prefill", "target", "drafter", "tree", "head"))
HEADS = {HEAD, "falcon::top_k"}
"""What an LM head's products happen in."""
KINDS = {
    "linear layers": (
        "falcon::product",
        "falcon::linear",
        "aten::mm",
        "aten::matmul",
        "aten::addmm",
        "aten::linear",
        "lstm",
    ),
    "attention": ("falcon::attention", "attention", "aten::bmm"),
}
"""A kind of work → pieces of its operators' names; the first match counts, all others are small operations."""
SMALL, PYTHON = "norms, small operations", "Python"


@dataclass(frozen=True)
class Profile:
    """One method's cycle."""

    milliseconds: float
    """Of a cycle, without the profiler."""
    shares: Mapping[tuple[str, str], float]
    """(target, drafter or tree; kind of work) → share of the profiled time."""


class WatchedTarget:
    """A target that tells the profiler when it works."""

    def __init__(self, target: Target):
        self.target, self.device, self.context_limit = target, target.device, target.context_limit

    def prefill(self, prompt_L: Tensor) -> Scores:
        """Under a range of its own."""
        with record_function(PREFILL):
            return self.target.prefill(prompt_L)

    def score(self, draft: Draft) -> Scores:
        """Counted for the target."""
        with record_function(TARGET):
            return self.target.score(draft)

    def commit(self, path: Sequence[int]) -> None:
        """Counted for the target."""
        with record_function(TARGET):
            self.target.commit(path)

    def synchronize(self) -> None:
        """As the target does."""
        self.target.synchronize()


class WatchedDrafter:
    """A drafter that tells the profiler when it works."""

    def __init__(self, drafter: Drafter):
        self.drafter = drafter

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Counted for the prefill."""
        with record_function(PREFILL):
            self.drafter.start(prompt_L, scores)

    def propose(self, token: int, room: int) -> Draft:
        """Counted for the drafter."""
        with record_function(DRAFTER):
            return self.drafter.propose(token, room)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Counted for the drafter."""
        with record_function(DRAFTER):
            self.drafter.observe(verdict, scores)


@contextmanager
def watched(heads: Sequence[nn.Module]) -> Iterator[None]:
    """LM heads that tell the profiler when they work."""
    ranges: list[Any] = []

    def enter(*_: object) -> None:
        ranges.append(record_function(HEAD))
        ranges[-1].__enter__()

    def leave(*_: object) -> None:
        ranges.pop().__exit__(None, None, None)

    hooks = [
        hook for head in heads for hook in (head.register_forward_pre_hook(enter), head.register_forward_hook(leave))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def shares_of(events: Sequence[Any]) -> dict[tuple[str, str], float]:
    """Who did what for how long, from the profiler's events: each event's own time counts once."""
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        around = list(_names_upwards(event))
        owner = next((name for name in around if name in (PREFILL, TARGET, DRAFTER, TREE)), PREFILL)
        if owner != PREFILL:
            spent[owner.removeprefix("falcon/"), _kind(event.name, not HEADS.isdisjoint(around))] += (
                event.self_cpu_time_total
            )
    whole = sum(spent.values())
    return {key: time / whole for key, time in spent.items()}


def profiled(session: BenchmarkSession, drafter: Drafter, prompts: Sequence[list[int]], limit: int) -> Profile:
    """Profile one drafter's cycles over some prompts."""
    target = session.target.model
    answers = [
        complete(target, drafter, prompt, Stop(session.target.stop_ids, limit)) for prompt in [prompts[0], *prompts]
    ]
    cycles = [cycle.seconds for answer in answers[1:] for cycle in answer.cycles]
    heads = [head for head in (target.head, getattr(drafter, "head", None)) if isinstance(head, nn.Module)]
    with watched(heads), profile(activities=[ProfilerActivity.CPU]) as trace:
        for prompt in prompts:
            with record_function(TREE):
                complete(WatchedTarget(target), WatchedDrafter(drafter), prompt, Stop(session.target.stop_ids, limit))
    return Profile(1e3 * sum(cycles) / len(cycles), shares_of(trace.events()))


def main(settings: Sequence[str]) -> None:
    """Profile a bench recipe's methods; prints one table."""
    from rich.table import Table

    recipe = load_recipe(BenchRecipe, None, ["limit=2", "max_new_tokens=48", *settings])
    choices = [
        choose(name) for name in recipe.methods or [name for name in default_methods(recipe) if name != "lookahead"]
    ]
    context = load_context(recipe, choices)
    session = BenchmarkSession(context.target, {}, recipe.max_new_tokens)
    prompts = [session.prompt(question, 0, ()) for question in load(recipe.dataset, recipe.limit).questions]
    profiles = {one.name: profiled(session, one.build(context), prompts, recipe.max_new_tokens) for one in choices}
    table = Table("", *profiles, title=f"{recipe.target.model}: a cycle's time, {torch.get_num_threads()} threads")
    for key in sorted({key for one in profiles.values() for key in one.shares}):
        table.add_row(": ".join(key), *(f"{100 * one.shares.get(key, 0):.1f} %" for one in profiles.values()))
    table.add_section()
    table.add_row("a cycle, unprofiled", *(f"{one.milliseconds:.1f} ms" for one in profiles.values()))
    show(table)


def _kind(name: str, in_head: bool) -> str:
    if name.startswith("falcon/"):
        return PYTHON
    kind = next((kind for kind, pieces in KINDS.items() if any(piece in name for piece in pieces)), SMALL)
    return "LM head" if in_head and kind == "linear layers" else kind


def _names_upwards(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


if __name__ == "__main__":
    main(sys.argv[1:])
