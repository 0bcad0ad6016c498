"""Lookahead decoding: the target drafts for itself by Jacobi iteration, two branches in one forward.

Source: Fu, Bailis, Stoica, Zhang, "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (ICML
2024), §3. With window W and n-grams of N tokens, the *lookahead branch* keeps N − 1 rows of W guessed tokens, each
row one Jacobi iteration younger than the one above it and one position ahead (W = 3, N = 4, positions from the root):

    position   0      1    2    3    4    5
    root       r
    row 0             a1   a2   a3                 oldest
    row 1                  b1   b2   b3
    row 2                       c1   c2   c3       newest; the target's choice after c_i is d_i
    new row                          d1   d2   d3

c2 sees r, a1, a2, b2 and itself: down its own column, and along row 0 up to it. Each column then yields one n-gram
(a2, b2, c2, d2) for the pool, the rows move up (b, c, d), and stand one position further on, as the root does.
The *verification branch* hangs the pool's n-grams that begin with the root token under it, merged into a tree.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from falcon_cli.core import WIDEST_DRAFT, Draft, Scores, Verdict
from falcon_cli.errors import UsageError
from falcon_cli.tree.shape import ancestors_of, depths_of

Ngram = tuple[int, ...]


@dataclass(frozen=True)
class LookaheadOptions:
    """Settings of Lookahead decoding; the names follow the paper's W, N and G."""

    window: int = 4
    """W: columns of the window."""
    ngram: int = 4
    """N: tokens of an n-gram; the window has N − 1 rows."""
    guesses: int = 4
    """G: n-grams verified in a cycle, and kept for each first token."""
    prompt_pool: bool = True
    """Fill the pool with the prompt's own n-grams first."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.ngram < 2 or self.guesses < 1:
            raise UsageError("lookahead: needs window >= 1, ngram >= 2, guesses >= 1")
        nodes = 1 + (self.window + self.guesses) * (self.ngram - 1)
        if nodes > WIDEST_DRAFT:
            raise UsageError(f"lookahead: {nodes} tokens in one forward, at most {WIDEST_DRAFT} fit; make it smaller")


class NgramPool:
    """The latest n-grams of one text by their first token, at most `guesses` each, newest first."""

    def __init__(self, guesses: int):
        self.guesses = guesses
        self._by_first: dict[int, OrderedDict[Ngram, None]] = {}

    def add(self, ngram: Ngram) -> None:
        """Remember an n-gram; the oldest of its first token may have to go."""
        known = self._by_first.setdefault(ngram[0], OrderedDict())
        known[ngram[1:]] = None
        known.move_to_end(ngram[1:])
        if len(known) > self.guesses:
            known.popitem(last=False)

    def after(self, token: int) -> list[Ngram]:
        """What has followed this token, newest first, without the token itself."""
        return list(reversed(self._by_first.get(token, ())))


class Lookahead:
    """Window and n-gram pool of one text."""

    def __init__(self, device: torch.device, options: LookaheadOptions):
        self.device, self.options = device, options
        self.rows: list[list[int]] = []
        self.pool = NgramPool(options.guesses)

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Fill the window with tokens of the prompt (any guess will do) and the pool with its n-grams."""
        prompt, width, n = prompt_L.tolist(), self.options.window, self.options.ngram
        guesses = iter(prompt[-1 - place % len(prompt)] for place in range(width * (n - 1)))
        self.rows = [[next(guesses) for _ in range(width)] for _ in range(n - 1)]
        self.pool = NgramPool(self.options.guesses)
        if self.options.prompt_pool:
            for place in range(len(prompt) - n + 1):
                self.pool.add(tuple(prompt[place : place + n]))

    def propose(self, token: int, room: int) -> Draft:
        """The root, the pool's guesses as a tree of candidates, then the window."""
        guesses = [ngram[:room] for ngram in self.pool.after(token)] if room > 0 else []
        tokens, parents = merge(token, guesses)
        candidates, flat = len(tokens), [token for row in self.rows for token in row]
        window = _window_layout(self.options.window, len(self.rows), candidates)
        candidate_T = torch.zeros(candidates + len(flat), dtype=torch.bool)
        candidate_T[:candidates] = True
        ancestors_TT = window.ancestors_TT.clone()
        ancestors_TT[:candidates, :candidates] = ancestors_of(tuple(parents))
        return Draft(
            tokens_T=torch.tensor(tokens + flat, device=self.device),
            parents=(*parents, *[0] * len(flat)),
            depth_T=torch.tensor(
                [*depths_of(parents), *(min(depth, room) for depth in window.depths)], device=self.device
            ),
            ancestors_TT=ancestors_TT.to(self.device),
            candidate_T=candidate_T.to(self.device),
        )

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Collect one n-gram a column and move the window up by one row."""
        new_row = list(verdict.choices[-self.options.window :])
        for column in zip(*self.rows, new_row, strict=True):
            self.pool.add(column)
        self.rows = [*self.rows[1:], new_row]


def merge(root: int, branches: list[Ngram]) -> tuple[list[int], list[int]]:
    """Tokens and parents of the tree of all branches under the root, shared prefixes merged, parents first."""
    tokens, parents = [root], [0]
    node_of: dict[Ngram, int] = {(): 0}
    for branch in branches:
        for depth in range(1, len(branch) + 1):
            prefix = branch[:depth]
            if prefix not in node_of:
                node_of[prefix] = len(tokens)
                tokens.append(prefix[-1])
                parents.append(node_of[prefix[:-1]])
    return tokens, parents


@dataclass(frozen=True)
class WindowLayout:
    """Depths of the window's tokens and the visibility of all nodes; the candidates' own corner is left empty."""

    depths: tuple[int, ...]
    ancestors_TT: Tensor


@lru_cache(maxsize=256)
def _window_layout(width: int, rows: int, candidates: int) -> WindowLayout:
    size = candidates + width * rows
    sees_TT = torch.zeros(size, size, dtype=torch.bool)
    sees_TT[candidates:, 0] = True
    for row in range(rows):
        for column in range(width):
            node = candidates + row * width + column
            sees_TT[node, candidates : candidates + column + 1] = True  # row 0 up to its own column
            sees_TT[node, candidates + column : node + 1 : width] = True  # down its own column
    depths = tuple(1 + row + column for row in range(rows) for column in range(width))
    return WindowLayout(depths, sees_TT)
