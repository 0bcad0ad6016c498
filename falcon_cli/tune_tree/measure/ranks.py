"""Rank paths: which of the drafter's guesses the target's own text is.

At every token of a greedy answer the drafter drafts a chain that keeps to the answer, pass after pass on features that
it predicts itself. At each depth the rank of the answer's token among the drafter's candidates is noted, up to the
first miss:

    root  The          answer  cat  sat  on  the      rank path  0  2  1  ✗
                       ranks    0    2   1   ✗

A tree accepts exactly the longest beginning of the rank path that is one of the tree's paths. So rank paths alone tell
what any tree accepts in every cycle of the real decoding loop on these answers: exactly, for trees that are no deeper
than the rank paths.

Shapes: L tokens of a text, D hidden size, E features that the head reads, F nodes that a slot fills.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from falcon_cli.core import Verdict
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import Slot
from falcon_cli.tree.shape import Path, TreeShape

_NOTHING_ACCEPTED = Verdict((0,), (), next_token=0, choices=(0,))


@dataclass(frozen=True)
class RankPath:
    """Ranks of the text's tokens below one root, as far as these are among the candidates."""

    ranks: Path
    complete: bool
    """False where the text ended before a miss or the deepest level: the ranks below are unknown."""


@dataclass(frozen=True)
class RankedText:
    """One greedy answer: the drafter's rank path at each token but the last."""

    context: int
    """Tokens before the answer."""
    paths: tuple[RankPath, ...]

    def walk(self, shape: TreeShape) -> list[int]:
        """Tokens emitted by each cycle of the decoding loop with this tree."""
        return [emitted for _, emitted in self.cycles(lambda place: self.accepted(place, shape))]

    def cycles(self, accepted: Callable[[int], int]) -> Iterator[tuple[int, int]]:
        """Each cycle of the loop: its root's place, tokens emitted; `accepted` tells it of a draft below a place."""
        place = 0
        while place < len(self.paths):
            # Accepted tokens and the bonus token, but nothing past the answer's end; the last of them is the next root.
            emitted = min(accepted(place) + 1, len(self.paths) - place)
            yield place, emitted
            place += emitted

    def accepted(self, place: int, shape: TreeShape) -> int:
        """Tokens that a tree accepts below one token of the answer."""
        ranks = self.paths[place].ranks
        # Beginnings are tried shortest first: a tree that lacks one has none of the longer ones.
        return next((d for d in range(len(ranks)) if ranks[: d + 1] not in shape.members), len(ranks))


def tokens_per_cycle(texts: Iterable[RankedText], shape: TreeShape) -> float:
    """Tokens per cycle of the decoding loop with this tree on these texts; 1 without any cycle."""
    emitted = [tokens for text in texts for tokens in text.walk(shape)]
    return sum(emitted) / len(emitted) if emitted else 1.0


class RankProbe:
    """A drafter that follows known texts instead of guessing.

    Args:
        drafter: Its weights are shared.
        depth: The deepest level to rank.
        width: Ranks from here on count as misses.
    """

    def __init__(self, drafter: TreeDrafter, depth: int, width: int):
        self.depth, self.width = depth, min(width, drafter.choices)
        self._drafter = drafter.with_tree(TreeShape.chain(depth), self._follow)
        self._ahead: Sequence[int] = ()
        self._ranks: list[int] = []

    @torch.inference_mode()
    def probe(self, target: TargetModel, prompt: Sequence[int], answer: Sequence[int]) -> RankedText:
        """The rank paths of one answer.

        Args:
            target: Reads the text once, for its features.
            prompt: The prompt's token ids.
            answer: The target's own greedy tokens.
        """
        # The last token is never a root: nothing follows that could be drafted.
        text_L = torch.tensor([*prompt, *answer[:-1]], dtype=torch.long, device=target.device)
        scores = target.prefill(text_L)
        before, paths = len(prompt), []
        self._drafter.start(text_L[:before], replace(scores, features_TD=scores.features_TD[:before]))
        for place in range(len(answer) - 1):
            self._ahead = answer[place + 1 : place + 1 + self.depth]
            ranks = self._below(answer[place])
            # Complete: it ended in a miss, or at the deepest level.
            paths.append(RankPath(ranks, len(ranks) < len(self._ahead) or len(ranks) == self.depth))
            # Whatever was drafted, the drafter observes that the root alone was accepted, so it moves on by one token.
            feature_1D = scores.features_TD[before + place : before + place + 1]
            self._drafter.observe(_NOTHING_ACCEPTED, replace(scores, features_TD=feature_1D))
        return RankedText(before, tuple(paths))

    def _below(self, root: int) -> Path:
        """Ranks of the tokens ahead of a root, up to the first miss."""
        self._ranks = []
        try:
            self._drafter.propose(root, len(self._ahead))
        except _MissedError:
            self._ranks.pop()  # the miss itself, whose rank is the width
        return tuple(self._ranks)

    def _follow(self, features_ED: Tensor, slot: Slot) -> Tensor:
        """The text's own token, whatever would have been drafted.

        Raises:
            _MissedError: It is not among the candidates, so nothing below it matters.
        """
        # The chain's node `slot.begin` is at that depth; the token ahead of the root by one is at depth 1.
        truth, drafter = self._ahead[slot.begin - 1], self._drafter
        ids = drafter.best(features_ED, self.width)[0].tolist()
        self._ranks.append(ids.index(truth) if truth in ids else self.width)
        if self._ranks[-1] == self.width:
            raise _MissedError
        return torch.tensor([truth], device=drafter.device)


class _MissedError(Exception):
    """The text goes on with a token that is no candidate."""
