"""The costs of a cycle, measured on this machine: medians of interleaved rounds.

Texts are arbitrary tokens: a forward costs the same whatever it reads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.costs.table import CostTable, DraftCost
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.decode.verify import verify
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter, TreeOptions
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import Pass, passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import default_tree

_FIRST_ID = 3
_INTERFERENCE_NODES, _INTERFERENCE_ROUNDS = 8, 16
_WARM = 2
"""Rounds that warm up and do not count."""


@dataclass(frozen=True)
class Rounds:
    """What is measured, and how often."""

    contexts: tuple[int, ...]
    nodes: tuple[int, ...]
    rounds: int

    @property
    def total(self) -> int:
        """Rounds of all contexts and of the drafts."""
        return (len(self.contexts) + 1) * (self.rounds + _WARM)


def chain(target: TargetModel, nodes: int) -> Draft:
    """A draft of so many nodes, one below the other, of arbitrary tokens."""
    return Draft.chain(_ids(nodes), target.device)


def pretend(target: TargetModel, context: int, nodes: int) -> None:
    """Let the cache be as after a text of so many tokens: a forward over some nodes costs the same whatever it reads.

    Raises:
        FalconError: Text and nodes do not fit the model's context.
    """
    if target.longrope is not None:  # it reads the text again where that grows long
        target.prefill(torch.tensor(_ids(context), device=target.device))
        return
    target.check_room(max(1, context), nodes)
    target.cache.rewind(0)
    target.cache.reserve(context + nodes)
    target.cache.length = context


@torch.inference_mode()
def verify_costs(target: TargetModel, plan: Rounds, tick: Callable[[], None]) -> dict[int, dict[int, float]]:
    """Context → nodes → milliseconds to score, judge and commit that many nodes."""
    drafts = {nodes: chain(target, nodes) for nodes in plan.nodes}
    costs = {}
    for context in plan.contexts:
        pretend(target, context, max(plan.nodes))
        times: dict[int, list[float]] = {nodes: [] for nodes in drafts}
        for turn in range(plan.rounds + _WARM):
            for nodes, draft in drafts.items():
                times[nodes].append(_repeated_verify_seconds(target, draft, context))
            if turn + 1 == _WARM:
                times = {nodes: [] for nodes in drafts}
            tick()
        costs[context] = {nodes: 1e3 * median(seconds) for nodes, seconds in times.items()}
    return costs


def draft_costs(
    target: TargetModel, drafters: Mapping[int, TreeDrafter], plan: Rounds, tick: Callable[[], None]
) -> dict[int, DraftCost]:
    """k → what the parts of its drafts cost, fitted to the times of a few trees."""
    growth = 2 * (plan.rounds + _WARM)  # every draft is observed as if its root and one token were accepted
    context = min(plan.contexts[len(plan.contexts) // 2], target.context_limit - growth)
    prompt_L = torch.tensor(_ids(context), device=target.device)
    scores = target.prefill(prompt_L)
    trees = [
        (k, tree, passes_of(tree.shape, k, tree.chained))
        for k, drafter in drafters.items()
        for tree in (
            drafter.with_tree(shape) for shape in _trial_shapes(k, drafter.choices) if _can_draft(drafter, shape)
        )
    ]
    for _, tree, _ in trees:
        tree.start(prompt_L, scores)
    times: list[list[float]] = [[] for _ in trees]
    for turn in range(plan.rounds + _WARM):
        for place, (_, tree, _) in enumerate(trees):
            seconds = _draft_seconds(target, tree, scores)
            if turn >= _WARM:
                times[place].append(seconds)
        tick()
    by_k: dict[int, list[tuple[Sequence[Pass], float]]] = {k: [] for k in drafters}
    for (k, _, passes), seconds_of in zip(trees, times, strict=True):
        by_k[k].append((passes, 1e3 * median(seconds_of)))
    return {k: _fitted_parts(measured) for k, measured in by_k.items()}


def rest_cost(target: TargetModel, tokens: int = 24) -> float:
    """Milliseconds of a cycle outside drafting and verifying."""
    completion = complete(target, Autoregressive(target.device), _ids(8), Stop((), tokens))
    return 1e3 * median(cycle.seconds - cycle.draft_seconds - cycle.verify_seconds for cycle in completion.cycles)


def with_interference(
    table: CostTable, target: TargetModel, drafters: Mapping[int, TreeDrafter], context: int
) -> CostTable:
    """The table with the cost of interference: draft and verification each evict the other's data from the caches.

    It is added to each draft's `first`.
    """
    draft, context = dict(table.draft), max(1, min(context, target.context_limit - 6 * (_INTERFERENCE_ROUNDS + _WARM)))
    for k, drafter in drafters.items():
        limits = TreeOptions(depth=drafter.deepest or 0)
        tree = drafter.with_tree(limits.trim(default_tree(k, min(_INTERFERENCE_NODES, drafter.choices))))
        draft[k] = replace(draft[k], first=draft[k].first + max(0.0, _interference_ms(target, tree, context)))
    return replace(table, draft=draft)


@torch.inference_mode()
def _interference_ms(target: TargetModel, tree: TreeDrafter, context: int) -> float:
    """Milliseconds that a cycle takes beyond a draft right after a draft and a verification right after a verification.

    Both are measured in every round, so that whatever else the machine does affects both.
    """
    prompt_L = torch.tensor(_ids(context), device=target.device)
    scores = target.prefill(prompt_L)
    tree.start(prompt_L, scores)
    differences = []
    for _ in range(_INTERFERENCE_ROUNDS + _WARM):
        draft, propose_seconds = _timed_proposal(target, tree)
        verifying_seconds = verify_seconds(target, draft, context)
        cycle = propose_seconds + verifying_seconds + _observe_seconds(target, tree, draft, scores)
        _draft_seconds(target, tree, scores)  # so that the next one finds its data in the caches
        apart = _draft_seconds(target, tree, scores) + _repeated_verify_seconds(target, draft, context)
        differences.append(1e3 * (cycle - apart))
    return median(differences[_WARM:])


@torch.inference_mode()
def verify_seconds(target: TargetModel, draft: Draft, context: int) -> float:
    """Seconds to score, judge and commit a draft; the cache is then rewound."""
    began = perf_counter()
    verdict = verify(draft, target.score(draft))
    target.commit(verdict.path)
    target.synchronize()
    seconds = perf_counter() - began
    target.cache.rewind(context)
    return seconds


def _repeated_verify_seconds(target: TargetModel, draft: Draft, context: int) -> float:
    """Seconds of a verification right after the same one, as in plain decoding."""
    verify_seconds(target, draft, context)
    return verify_seconds(target, draft, context)


@torch.inference_mode()
def _draft_seconds(target: TargetModel, tree: TreeDrafter, scores: Scores) -> float:
    """Seconds to propose a draft and to observe its verdict."""
    draft, propose_seconds = _timed_proposal(target, tree)
    return propose_seconds + _observe_seconds(target, tree, draft, scores)


def _timed_proposal(target: TargetModel, tree: TreeDrafter) -> tuple[Draft, float]:
    """A draft, and the seconds that it took to propose."""
    began = perf_counter()
    draft = tree.propose(_FIRST_ID, tree.shape.height)
    target.synchronize()
    return draft, perf_counter() - began


def _observe_seconds(target: TargetModel, tree: TreeDrafter, draft: Draft, scores: Scores) -> float:
    """Seconds to observe the verdict that a draft's first two nodes are accepted."""
    tokens = draft.tokens_T.tolist()
    path = range(min(2, len(tokens)))
    verdict = Verdict(tuple(path), tuple(tokens[1 : len(path)]), _FIRST_ID, tuple(tokens))
    accepted = replace(scores, features_TD=scores.features_TD[-len(path) :])
    began = perf_counter()
    tree.observe(verdict, accepted)
    target.synchronize()
    return perf_counter() - began


def _trial_shapes(k: int, choices: int) -> list[TreeShape]:
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


def _can_draft(drafter: TreeDrafter, shape: TreeShape) -> bool:
    return drafter.deepest is None or shape.height <= drafter.deepest


def _fitted_parts(measured: Sequence[tuple[Sequence[Pass], float]]) -> DraftCost:
    """The costs of parts, none negative, that fit the measured drafts (passes, milliseconds) best: least squares."""
    # A unit cost of 1 for one part and 0 for the others counts how often a draft has that part.
    units = [DraftCost(*(float(part == unit) for part in range(5))) for unit in range(5)]
    table_ME = torch.tensor([[unit.of(passes) for unit in units] for passes, _ in measured], dtype=torch.float64)
    ms_M = torch.tensor([ms for _, ms in measured], dtype=torch.float64)
    kept = list(range(5))
    while True:  # leave out the most negative part, until none is negative
        solution_E: Tensor = torch.linalg.lstsq(table_ME[:, kept], ms_M[:, None], driver="gelsd").solution[:, 0]
        if bool((solution_E >= -1e-9).all()):
            break
        kept.pop(int(solution_E.argmin()))
    parts = [0.0] * 5
    for part, ms in zip(kept, solution_E.tolist(), strict=True):
        parts[part] = max(0.0, ms)
    return DraftCost(*parts)


def _ids(count: int) -> list[int]:
    """Arbitrary token ids, of few kinds: a small vocabulary has them too."""
    return [_FIRST_ID + number % 32 for number in range(count)]
