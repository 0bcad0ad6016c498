"""The terms of speculative decoding: what is drafted, scored and kept, and target and drafter by Protocol.

Shapes: T nodes of a draft, A accepted nodes (the root included), L prompt tokens, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from falcon_cli.tree.shape import TreeShape, ancestors_of, depths_of

WIDEST_DRAFT = 1024
"""Most nodes of a draft; a target's cache keeps so many slots beyond its context."""


@dataclass(frozen=True)
class Draft:
    """The proposed tree. Node 0 is the root: the known token that the target has not read yet.

    Nodes come parents first. `ancestors_TT` is what each node may attend to among the nodes; for trees it follows
    from the parents, but a drafter may let extra nodes ride along that nobody wants verified (Lookahead's window):
    these are not candidates, and the drafter sets their ancestor rows.
    """

    tokens_T: Tensor
    parents: tuple[int, ...]
    depth_T: Tensor
    ancestors_TT: Tensor
    candidate_T: Tensor | None = None
    """Boolean [T]; None when every node is a candidate."""

    @classmethod
    def tree(cls, tokens: Sequence[int], parents: Sequence[int], device: torch.device) -> "Draft":
        """A tree of candidate tokens; `parents[t] <= t`, the root its own parent."""
        return cls(
            tokens_T=torch.tensor(tokens, dtype=torch.long, device=device),
            parents=tuple(parents),
            depth_T=torch.tensor(depths_of(parents), dtype=torch.long, device=device),
            ancestors_TT=ancestors_of(tuple(parents)).to(device),
        )

    @classmethod
    def chain(cls, tokens: Sequence[int], device: torch.device) -> "Draft":
        """One branch: the root and the tokens drafted after it."""
        return cls.tree(tokens, TreeShape.chain(len(tokens) - 1).parents, device)

    def __len__(self) -> int:
        """Nodes, the root included."""
        return len(self.parents)


@dataclass(frozen=True)
class Scores:
    """What the target says after reading tokens."""

    features_TD: Tensor
    """Last hidden states after the final norm, which the LM head reads (after prefill: every prompt token's)."""
    choice_T: Tensor
    """The likeliest token of each row of logits, of equals the first."""
    best_T: Tensor
    """Its logit."""
    make_logits: Callable[[], Tensor]
    """Makes `logits_TV`: of many nodes and words they are the largest tensor of all, and few ask for them."""

    @cached_property
    def logits_TV(self) -> Tensor:
        """Next-token logits, one row a node (after prefill: one row, the last prompt token's)."""
        return self.make_logits()

    @classmethod
    def of(cls, logits_TV: Tensor, features_TD: Tensor) -> "Scores":
        """Scores with the argmax computed here."""
        choice_T = logits_TV.argmax(-1)
        return cls(features_TD, choice_T, logits_TV.gather(1, choice_T[:, None])[:, 0], lambda: logits_TV)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one verification."""

    path: tuple[int, ...]
    """Accepted nodes from the root down, ascending (A of them)."""
    accepted: tuple[int, ...]
    """The drafted tokens accepted, in order (A − 1 of them)."""
    next_token: int
    """The bonus token: the target's own choice after the last accepted node."""
    choices: tuple[int, ...]
    """The target's own choice after every node (T of them)."""


class Target(Protocol):
    """The big frozen model, holding what it has read of one text."""

    device: torch.device
    context_limit: int

    @property
    def draft_room(self) -> int:
        """How many tokens deep a draft may be now."""

    def prefill(self, prompt_L: Tensor) -> Scores:
        """Forget everything and read a prompt."""

    def score(self, draft: Draft) -> Scores:
        """Score every node in one forward; nothing is kept until `commit`."""

    def commit(self, path: Sequence[int]) -> None:
        """Keep the accepted nodes of the draft just scored, forget the others."""

    def synchronize(self) -> None:
        """Wait until the device is idle, so that a clock reads true."""


class Drafter(Protocol):
    """A proposer of the next tokens."""

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """A new text begins: the prompt and what the target says of it."""

    def propose(self, token: int, room: int) -> Draft:
        """Draft under the root `token`, at most `room` tokens deep (0: the root alone)."""

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Learn what was accepted, with the target's scores of the draft."""
