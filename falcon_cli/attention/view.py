"""What the T query rows of one forward may see of the cache.

Slots 0 .. L−1 hold committed tokens (slot = position); slots L .. L+T−1 hold the rows being read now, which see each
other as `ancestors_TC` says and stand at position L + depth:

                 committed   rows of this forward
    row 0        1 1 1 1 1   1 . . .
    row 1        1 1 1 1 1   1 1 . .
    row 2        1 1 1 1 1   1 . 1 .
    row 3        1 1 1 1 1   1 1 . 1

A drafter that drafts in several passes lets the rows of its earlier passes lie uncommitted in between. They are
columns of `ancestors_TC` too, before those of the forward's own rows:

                 committed   earlier   rows of this forward
    row 0        1 1 1 1 1   1 1 . .   1 .
    row 1        1 1 1 1 1   . . 1 1   . 1

Shapes: U uncommitted rows of earlier forwards (mostly 0), T rows, C = U + T uncommitted slots, S slots.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Visibility(Protocol):
    """What attention and masks ask of a view, be its shapes fixed (`target/forward/graphs.py`) or growing (`View`)."""

    fixed: bool
    """Whether nothing may depend on the tensors' contents, because a graph is made of it."""
    committed: int
    ancestors_TC: Tensor | None

    @property
    def position_T(self) -> Tensor:
        """Position of each row."""

    @property
    def slot_position_S(self) -> Tensor:
        """Position of what lies in each slot."""

    @property
    def seen_TS(self) -> Tensor:
        """Boolean: which slots each row sees."""

    def mask_TS(self, dtype: torch.dtype, window: int | None = None) -> Tensor | None:
        """Additive mask, 0 or −inf; None when every row sees every slot."""

    def own_TC(self) -> Tensor:
        """Boolean: which of the uncommitted rows each row sees."""


@dataclass
class View:
    """The visibility of one forward, shared by all its layers.

    Args:
        committed: L, the tokens already in the cache.
        depth_T: Each row's depth; its position is `committed + depth`.
        ancestors_TC: Which rows each row sees; None when each sees all rows before it and itself (a chain).
        earlier_U: Depths of the rows of earlier forwards that lie uncommitted between; None when there are none.
    """

    committed: int
    depth_T: Tensor
    ancestors_TC: Tensor | None
    earlier_U: Tensor | None = None
    fixed = False
    _masks: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict, repr=False)

    @property
    def position_T(self) -> Tensor:
        """Position of each row in the text."""
        return self.depth_T + self.committed

    @property
    def slot_position_S(self) -> Tensor:
        """Position in the text of what lies in each slot."""
        depth_C = self.depth_T if self.earlier_U is None else torch.cat([self.earlier_U, self.depth_T])
        return torch.cat([torch.arange(self.committed, device=depth_C.device), depth_C + self.committed])

    @cached_property
    def seen_TS(self) -> Tensor:
        """Boolean [T, S]: which slots each row sees."""
        own_TC = self.own_TC()
        return torch.cat([own_TC.new_ones(len(own_TC), self.committed), own_TC], -1)

    def mask_TS(self, dtype: torch.dtype, window: int | None = None) -> Tensor | None:
        """Additive mask [T, S] (0 or −inf), built once a forward; None when every row sees every slot."""
        key = (window, dtype)
        if key not in self._masks:
            self._masks[key] = self._additive(dtype, window)
        return self._masks[key]

    def own_TC(self) -> Tensor:
        """Boolean [T, C]: which of the uncommitted rows each row sees."""
        if self.ancestors_TC is not None:
            return self.ancestors_TC
        rows = len(self.depth_T)
        return torch.ones(rows, rows, dtype=torch.bool, device=self.depth_T.device).tril()

    def _additive(self, dtype: torch.dtype, window: int | None) -> Tensor | None:
        seen_TS = self.seen_TS
        slots = seen_TS.shape[1]
        reach = slots if window is None else window
        if slots == self.committed + 1 and slots <= reach:
            return None
        if slots > reach:
            seen_TS = seen_TS & (self.position_T[:, None] - self.slot_position_S < reach)
        return torch.zeros(seen_TS.shape, dtype=dtype, device=seen_TS.device).masked_fill_(~seen_TS, float("-inf"))
