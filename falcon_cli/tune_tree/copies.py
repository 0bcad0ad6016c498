"""How many tokens `falcon:copy=N` had best copy at a time.

    answer  … the cat sat on the | mat      copied  mat and the dog      right  1

A copied chain costs a forward of so many nodes and no draft; where there is nothing to copy, the tree is drafted. Both
are known for every token of the calibration texts, so the loop can be walked through for every length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from falcon_cli.baselines.pld import PldOptions, PromptLookup
from falcon_cli.drafter.copying import NGRAM
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.calibration import GreedyText
from falcon_cli.tune_tree.cost import CostTable
from falcon_cli.tune_tree.ranks import WatchedText

LONGEST = 15
_NEARLY = 0.99


@dataclass(frozen=True)
class Copy:
    """What is copied below one root."""

    tokens: int
    right: int
    """How many of them, from the first on, the answer goes on with."""


@dataclass(frozen=True)
class Copying:
    """A length with what is expected of it."""

    length: int
    tokens_per_second: float


def copies_in(text: GreedyText, ngram: int = NGRAM) -> list[Copy]:
    """What is copied below each token of an answer but the last."""
    lookup = PromptLookup(torch.device("cpu"), PldOptions(max_ngram=ngram, min_ngram=ngram))
    lookup.begin(text.prompt.ids)
    found = []
    for place, token in enumerate(text.answer[:-1]):
        copied, ahead = lookup.copied(token, LONGEST), text.answer[place + 1 :]
        right = next((n for n, pair in enumerate(zip(copied, ahead, strict=False)) if pair[0] != pair[1]), None)
        found.append(Copy(len(copied), min(len(copied), len(ahead)) if right is None else right))
    return found


def walk(text: WatchedText, copies: Sequence[Copy], shape: TreeShape, length: int) -> Iterator[tuple[int, int]]:
    """Each cycle of the loop: tokens copied (0: the tree was drafted), tokens emitted."""

    def accepted(place: int) -> int:
        return min(length, copies[place].right) if copies[place].tokens else text.accepted(place, shape)

    for place, emitted in text.cycles(accepted):
        yield min(length, copies[place].tokens), emitted


def best_length(
    texts: Iterable[tuple[WatchedText, GreedyText]], shape: TreeShape, tree_ms: float, table: CostTable, context: float
) -> Copying:
    """The shortest length that gives nearly most tokens a second: long copies are rare, and few texts tell of them.

    Args:
        texts: Answers with the drafter's rank paths.
        shape: The tree beside it; without paths the root alone.
        tree_ms: Milliseconds of a cycle with that.
        table: What other cycles cost.
        context: Tokens before a draft, on average.
    """
    known = [(watched, copies_in(text)) for watched, text in texts]

    def speed(length: int) -> float:
        cycles = [cycle for watched, copies in known for cycle in walk(watched, copies, shape, length)]
        spent = sum(table.verify_ms(1 + n, context) + table.rest if n else tree_ms for n, _ in cycles)
        return 1000 * sum(emitted for _, emitted in cycles) / max(spent, 1e-9)

    speeds = {length: speed(length) for length in range(1, LONGEST + 1)}
    best = min(length for length, one in speeds.items() if one >= _NEARLY * max(speeds.values()))
    return Copying(best, speeds[best])
