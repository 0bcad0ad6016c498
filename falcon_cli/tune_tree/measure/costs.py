"""Costs of a cycle, measured on this machine: medians of interleaved rounds.

What the cache holds is not computed, so texts are arbitrary; a forward costs the same whatever stands there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.decode.verify import verify
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import Pass, passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import default_tree
from falcon_cli.tune_tree.measure.cost_table import CostTable, DraftCost

_FIRST_ID = 3
_AFTERMATH_NODES, _AFTERMATH_ROUNDS = 8, 16
_WARM = 2
"""Rounds that do not count."""


@dataclass(frozen=True)
class Rounds:
    """How much is measured."""

    contexts: tuple[int, ...]
    nodes: tuple[int, ...]
    rounds: int

    @property
    def total(self) -> int:
        """Rounds of all contexts, and of the drafts."""
        return (len(self.contexts) + 1) * (self.rounds + _WARM)


@torch.inference_mode()
def verify_costs(target: TargetModel, plan: Rounds, tick: Callable[[], None]) -> dict[int, dict[int, float]]:
    """Context → nodes → milliseconds to score, judge and commit so many nodes."""
    drafts = {nodes: Draft.chain(_ids(nodes), target.device) for nodes in plan.nodes}
    found = {}
    for context in plan.contexts:
        target.prefill(torch.tensor(_ids(context), device=target.device))
        times: dict[int, list[float]] = {nodes: [] for nodes in drafts}
        for turn in range(plan.rounds + _WARM):
            for nodes, draft in drafts.items():
                times[nodes].append(_settled(target, draft, context))
            if turn + 1 == _WARM:
                times = {nodes: [] for nodes in drafts}
            tick()
        found[context] = {nodes: 1e3 * median(some) for nodes, some in times.items()}
    return found


def draft_costs(
    target: TargetModel, drafters: Mapping[int, TreeDrafter], plan: Rounds, tick: Callable[[], None]
) -> dict[int, DraftCost]:
    """k → costs of its drafts' parts, the plane that fits a few trees best."""
    grown = 2 * (plan.rounds + _WARM)  # each draft is taken to be accepted by a token
    context = min(plan.contexts[len(plan.contexts) // 2], target.context_limit - grown)
    prompt_L = torch.tensor(_ids(context), device=target.device)
    scores = target.prefill(prompt_L)
    trees = [
        (k, tree, passes_of(tree.shape, k, tree.chained))
        for k, drafter in drafters.items()
        for tree in (drafter.with_tree(shape) for shape in _shapes(k, drafter.choices) if _reached(drafter, shape))
    ]
    for _, tree, _ in trees:
        tree.start(prompt_L, scores)
    times: list[list[float]] = [[] for _ in trees]
    for turn in range(plan.rounds + _WARM):
        for place, (_, tree, _) in enumerate(trees):
            seconds = _drafted(target, tree, scores)
            if turn >= _WARM:
                times[place].append(seconds)
        tick()
    by_k: dict[int, list[tuple[Sequence[Pass], float]]] = {k: [] for k in drafters}
    for (k, _, passes), seconds_of in zip(trees, times, strict=True):
        by_k[k].append((passes, 1e3 * median(seconds_of)))
    return {k: _fitted(measured) for k, measured in by_k.items()}


def rest_cost(target: TargetModel, tokens: int = 24) -> float:
    """Milliseconds of a cycle outside drafting and verifying."""
    completion = complete(target, Autoregressive(target.device), _ids(8), Stop((), tokens))
    return 1e3 * median(one.seconds - one.draft_seconds - one.verify_seconds for one in completion.cycles)


def with_interference(
    table: CostTable, target: TargetModel, drafters: Mapping[int, TreeDrafter], context: int
) -> CostTable:
    """The table with what a draft and a verification cost each other: each finds the other's things in the caches.

    That is added to each draft's `first`.
    """
    draft, context = dict(table.draft), max(1, min(context, target.context_limit - 6 * (_AFTERMATH_ROUNDS + _WARM)))
    for k, drafter in drafters.items():
        within = TreeOptions(depth=drafter.deepest or 0)
        tree = drafter.with_tree(within.trim(default_tree(k, min(_AFTERMATH_NODES, drafter.choices))))
        draft[k] = replace(draft[k], first=draft[k].first + max(0.0, _beyond(target, tree, context)))
    return replace(table, draft=draft)


@torch.inference_mode()
def _beyond(target: TargetModel, tree: TreeDrafter, context: int) -> float:
    """Milliseconds that cycles take beyond drafts behind drafts and verifications behind verifications.

    The two take turns, so that whatever else the machine does meets both.
    """
    prompt_L = torch.tensor(_ids(context), device=target.device)
    scores = target.prefill(prompt_L)
    tree.start(prompt_L, scores)
    beyond = []
    for _ in range(_AFTERMATH_ROUNDS + _WARM):
        draft, seconds = _proposed(target, tree)
        cycle = seconds + _scored(target, draft, context) + _learned(target, tree, draft, scores)
        _drafted(target, tree, scores)
        apart = _drafted(target, tree, scores) + _settled(target, draft, context)
        beyond.append(1e3 * (cycle - apart))
    return median(beyond[_WARM:])


def _scored(target: TargetModel, draft: Draft, context: int) -> float:
    """Seconds to score, judge and commit a draft, which is then forgotten."""
    began = perf_counter()
    verdict = verify(draft, target.score(draft))
    target.commit(verdict.path)
    target.synchronize()
    seconds = perf_counter() - began
    target.cache.rewind(context)
    return seconds


def _settled(target: TargetModel, draft: Draft, context: int) -> float:
    """The same behind a like one, as in plain decoding."""
    _scored(target, draft, context)
    return _scored(target, draft, context)


@torch.inference_mode()
def _drafted(target: TargetModel, tree: TreeDrafter, scores: Scores) -> float:
    """Seconds of one draft and of learning that its first two nodes were accepted."""
    draft, seconds = _proposed(target, tree)
    return seconds + _learned(target, tree, draft, scores)


def _proposed(target: TargetModel, tree: TreeDrafter) -> tuple[Draft, float]:
    """A draft, and its seconds."""
    began = perf_counter()
    draft = tree.propose(_FIRST_ID, tree.shape.height)
    target.synchronize()
    return draft, perf_counter() - began


def _learned(target: TargetModel, tree: TreeDrafter, draft: Draft, scores: Scores) -> float:
    """Seconds of learning that a draft's first two nodes were accepted."""
    tokens = draft.tokens_T.tolist()
    path = range(min(2, len(tokens)))
    verdict = Verdict(tuple(path), tuple(tokens[1 : len(path)]), _FIRST_ID, tuple(tokens))
    learned = replace(scores, features_TD=scores.features_TD[-len(path) :])
    began = perf_counter()
    tree.observe(verdict, learned)
    target.synchronize()
    return perf_counter() - began


def _shapes(k: int, choices: int) -> list[TreeShape]:
    """Trees of one, two and three passes, narrow and wide."""
    wide = min(8, choices)
    row = [(0,) * k]
    fan = [(*row[0][:-1], rank) for rank in range(wide)]
    stems = [(0,) * depth for depth in range(1, k)]
    shapes = [
        TreeShape.chain(1),
        TreeShape.chain(k),
        TreeShape.chain(2 * k),
        TreeShape.chain(3 * k),
        TreeShape.from_paths((rank,) for rank in range(wide)),
        TreeShape.from_paths([*stems, *fan, *((*path, 0) for path in fan)]),
        TreeShape.from_paths([*stems, *fan[:4], *((*path, 0) for path in fan[:4])]),
    ]
    if k > 1:
        firsts = [(rank,) for rank in range(wide)]
        shapes.append(TreeShape.from_paths([*firsts, *((*path, 0) for path in firsts)]))
        below = [(*path, *(0,) * depth) for path in fan[:4] for depth in range(1, k + 1)]
        shapes.append(TreeShape.from_paths([*stems, *fan[:4], *below]))
    return [shape for number, shape in enumerate(shapes) if shape not in shapes[:number]]


def _reached(drafter: TreeDrafter, shape: TreeShape) -> bool:
    return drafter.deepest is None or shape.height <= drafter.deepest


def _fitted(measured: Sequence[tuple[Sequence[Pass], float]]) -> DraftCost:
    """Parts that add up to what was measured, none below 0: least squares, what turns negative left out."""
    unit = [DraftCost(*(float(part == one) for part in range(5))) for one in range(5)]
    table_ME = torch.tensor([[part.of(passes) for part in unit] for passes, _ in measured], dtype=torch.float64)
    ms_M = torch.tensor([ms for _, ms in measured], dtype=torch.float64)
    kept = list(range(5))
    while True:
        solution_E: Tensor = torch.linalg.lstsq(table_ME[:, kept], ms_M[:, None], driver="gelsd").solution[:, 0]
        if bool((solution_E >= -1e-9).all()):
            break
        kept.pop(int(solution_E.argmin()))
    parts = [0.0] * 5
    for part, ms in zip(kept, solution_E.tolist(), strict=True):
        parts[part] = max(0.0, ms)
    return DraftCost(*parts)


def _ids(count: int) -> list[int]:
    """Any tokens, of few kinds: a small vocabulary has them too."""
    return [_FIRST_ID + number % 32 for number in range(count)]
