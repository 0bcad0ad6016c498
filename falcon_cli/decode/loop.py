"""Speculative decoding, in one loop for every method.

Plain autoregression is a draft of one node; a chain is a tree with one branch; Lookahead's window rides along as
nodes that are not candidates. Output is the target's own greedy output whatever the drafter proposes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch

from falcon_cli.core import Drafter, Target
from falcon_cli.decode.stats import Completion, Cycle
from falcon_cli.decode.stop import Stop
from falcon_cli.decode.verify import pick, verify


@dataclass(frozen=True)
class Step:
    """New tokens of the answer, as they come: from the prefill (no cycle) or from one cycle."""

    tokens: tuple[int, ...]
    cycle: Cycle | None = None
    prefill_seconds: float = 0.0


def speculate(target: Target, drafter: Drafter, prompt: list[int], stop: Stop) -> Iterator[Step]:
    """Decode the answer to one prompt, step by step; the first step is the prefill's own token.

    Args:
        target: The model whose greedy text is wanted.
        drafter: Proposes the next tokens.
        prompt: Token ids.
        stop: A fresh `Stop`; it cuts the last step.
    """
    began = perf_counter()
    prompt_L = torch.tensor(prompt, dtype=torch.long, device=target.device)
    scores = target.prefill(prompt_L)
    drafter.start(prompt_L, scores)
    token = pick(scores)
    target.synchronize()
    yield Step(tuple(stop.take([token])), prefill_seconds=perf_counter() - began)
    while stop.finish is None:
        began = perf_counter()
        draft = drafter.propose(token, room=min(stop.room - 1, target.draft_room))
        target.synchronize()
        drafted = perf_counter()
        scores = target.score(draft)
        verdict = verify(draft, scores)
        target.commit(verdict.path)
        target.synchronize()
        verified = perf_counter()
        drafter.observe(verdict, scores)
        target.synchronize()
        observed = perf_counter()
        token = verdict.next_token
        kept = stop.take((*verdict.accepted, token))
        cycle = Cycle(
            emitted=len(kept),
            nodes=len(draft),
            draft_seconds=(drafted - began) + (observed - verified),
            verify_seconds=verified - drafted,
            seconds=perf_counter() - began,
        )
        yield Step(tuple(kept), cycle)


def complete(target: Target, drafter: Drafter, prompt: list[int], stop: Stop) -> Completion:
    """Decode the whole answer to one prompt and keep its record."""
    completion = Completion(prompt_tokens=len(prompt))
    for step in speculate(target, drafter, prompt, stop):
        extend(completion, step)
    completion.finish = stop.finish or "length"
    return completion


def extend(completion: Completion, step: Step) -> None:
    """Enter one step into the record of its answer."""
    completion.ids.extend(step.tokens)
    completion.prefill_seconds += step.prefill_seconds
    if step.cycle is not None:
        completion.cycles.append(step.cycle)
