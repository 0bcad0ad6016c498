"""Rotary angles that change with the text's length (longrope: Phi-3, Phi-4; Ding et al. 2024, arXiv 2402.13753).

Such a model has two tables of angles, for texts up to a boundary and for longer ones, and each forward takes one by its
largest position. So the keys of one text must all be of one table:

    a prompt beyond the boundary is read by the long table from its first chunk on
    a draft never reaches over the boundary: what it would score there belongs to the other table
    at the boundary the text is read anew, once, as transformers' `generate` does

Shapes: T rows of a forward.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class LongRope:
    """Which of the two tables a forward takes.

    Args:
        model: Its rotary embeddings are told; forwards of others are not touched.
        boundary: Tokens of the longest text that the short table serves.
    """

    def __init__(self, model: Any, boundary: int):
        self.boundary = boundary
        self.long = False
        """Whether the text in the cache is of the long table."""
        self._on = False
        for module in model.modules():
            if takes_long(module):
                module.register_forward_pre_hook(self._steer, with_kwargs=True)
                module.register_forward_hook(self._trim)

    def room(self, committed: int) -> int:
        """How deep a draft may be behind so many tokens."""
        beyond = self.long or committed >= self.boundary  # a text at the boundary is read anew before the draft is
        return 1 << 30 if beyond else self.boundary - 1 - committed

    @contextmanager
    def steering(self) -> Iterator[None]:
        """Forwards until the block ends take the table of `long`."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _steer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._on:
            return None
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": self._steered(kwargs["position_ids"])}
        return (args[0], self._steered(args[1]), *args[2:]), kwargs

    def _steered(self, position_1T: Tensor) -> Tensor:
        """Positions whose largest one picks the table; the long one by a position more, which `_trim` takes off."""
        if not self.long:
            return position_1T.clamp(max=self.boundary - 1)
        return torch.cat([position_1T, torch.full_like(position_1T[:, :1], self.boundary)], -1)

    def _trim(self, module: nn.Module, given: Any, angles: tuple[Tensor, ...]) -> Any:
        return tuple(part[:, :-1] for part in angles) if self._on and self.long else None


def takes_long(module: nn.Module) -> bool:
    """Whether a module is a rotary embedding with two tables."""
    kind = getattr(module, "rope_type", None)
    return kind == "longrope" or (isinstance(kind, dict) and "longrope" in kind.values())


def boundary_of(config: Any) -> int | None:
    """Tokens up to which the short table serves; None without longrope."""
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") == "longrope":
            boundary = part.get("original_max_position_embeddings") or config.original_max_position_embeddings
            return int(boundary)
    return None
