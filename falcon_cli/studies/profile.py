"""Where a cycle's time goes: `make profile`, or `python -m falcon_cli.studies profile [KEY=VALUE ...]`.

Keys are those of a bench recipe. torch's profiler times each operator; ranges around target and drafter tell for which
of them. Time outside operators is Python's. The profiler slows Python and small operators, so a cycle's length is
measured without it, in the same run; the shares are of the profiled time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from falcon_cli.console import show
from falcon_cli.core import Draft, Drafter, Scores, Target, Verdict
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.datasets import load
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.methods.defaults import default_methods
from falcon_cli.methods.grammar import choose, load_context
from falcon_cli.recipe.schema import BenchRecipe
from falcon_cli.target.load import LoadedTarget

PREFILL, TARGET, DRAFTER, TREE, HEAD = (f"falcon/{name}" for name in ("prefill", "target", "drafter", "tree", "head"))
HEADS = {HEAD, "falcon::top_k"}
"""The ranges and operators of an LM head's products."""
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
    """Length of a cycle, without the profiler."""
    shares: Mapping[tuple[str, str], float]
    """(target, drafter or tree; kind of work) → share of the profiled time."""


class WatchedTarget:
    """A target whose calls are ranges of the profiler."""

    def __init__(self, target: Target):
        self.target, self.device, self.context_limit = target, target.device, target.context_limit

    @property
    def draft_room(self) -> int:
        """As deep as the target's."""
        return self.target.draft_room

    def prefill(self, prompt_L: Tensor) -> Scores:
        """Prefill in a range of its own."""
        with record_function(PREFILL):
            return self.target.prefill(prompt_L)

    def score(self, draft: Draft) -> Scores:
        """Score, counted for the target."""
        with record_function(TARGET):
            return self.target.score(draft)

    def commit(self, path: Sequence[int]) -> None:
        """Commit, counted for the target."""
        with record_function(TARGET):
            self.target.commit(path)

    def synchronize(self) -> None:
        """Synchronize as the target does."""
        self.target.synchronize()


class WatchedDrafter:
    """A drafter whose calls are ranges of the profiler."""

    def __init__(self, drafter: Drafter):
        self.drafter = drafter

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Start, counted for the prefill."""
        with record_function(PREFILL):
            self.drafter.start(prompt_L, scores)

    def propose(self, token: int, room: int) -> Draft:
        """Propose, counted for the drafter."""
        with record_function(DRAFTER):
            return self.drafter.propose(token, room)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Observe, counted for the drafter."""
        with record_function(DRAFTER):
            self.drafter.observe(verdict, scores)


@contextmanager
def watched(heads: Sequence[nn.Module]) -> Iterator[None]:
    """Make the calls of LM heads ranges of the profiler."""
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
    """(owner, kind of work) → share of the time, from the profiler's events: each event's self time counts once."""
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


def profiled(loaded: LoadedTarget, drafter: Drafter, prompts: Sequence[list[int]], limit: int) -> Profile:
    """Profile one drafter's cycles over some prompts."""
    target = loaded.model
    answers = [complete(target, drafter, prompt, Stop(loaded.stop_ids, limit)) for prompt in [prompts[0], *prompts]]
    cycles = [cycle.seconds for answer in answers[1:] for cycle in answer.cycles]
    heads = [head for head in (target.head, getattr(drafter, "head", None)) if isinstance(head, nn.Module)]
    with watched(heads), profile(activities=[ProfilerActivity.CPU]) as trace:
        for prompt in prompts:
            with record_function(TREE):
                complete(WatchedTarget(target), WatchedDrafter(drafter), prompt, Stop(loaded.stop_ids, limit))
    return Profile(1e3 * sum(cycles) / len(cycles), shares_of(trace.events()))


def run(recipe: BenchRecipe) -> None:
    """Profile a bench recipe's methods, and print one table."""
    from rich.table import Table

    choices = [
        choose(name) for name in recipe.methods or [name for name in default_methods(recipe) if name != "lookahead"]
    ]
    context = load_context(recipe, choices)
    chat = ChatTemplate.of(recipe, context.target.tokenizer)
    questions = load(recipe.dataset, recipe.limit).questions
    prompts = [chat.prompt(question.messages(), question.tools) for question in questions]
    profiles = {it.name: profiled(context.target, it.build(context), prompts, recipe.max_new_tokens) for it in choices}
    table = Table("", *profiles, title=f"{recipe.target.model}: a cycle's time, {torch.get_num_threads()} threads")
    for key in sorted({key for cycle in profiles.values() for key in cycle.shares}):
        table.add_row(": ".join(key), *(f"{100 * cycle.shares.get(key, 0):.1f} %" for cycle in profiles.values()))
    table.add_section()
    table.add_row("a cycle, unprofiled", *(f"{cycle.milliseconds:.1f} ms" for cycle in profiles.values()))
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
