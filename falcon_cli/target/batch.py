"""Several texts on one target, read together: each forward reads the newest token of each, or a prompt.

This is for exact kernels, where the bits of a row do not depend on its neighbours: each text gets the tokens that plain
decoding gives it, whatever texts it shares its forwards with. Each has a cache of its own, so nothing is padded.

Shapes: B texts of the batch, T rows of a forward (all texts' together), L tokens of a text, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.attention.view import View
from falcon_cli.decode.verify import check_finite
from falcon_cli.native.layer import NativeDecoder
from falcon_cli.native.panel_cache import PanelCache
from falcon_cli.target.model import TargetModel


@dataclass
class _Text:
    cache: PanelCache
    unread_L: Tensor
    """Tokens that no forward has read yet: a prompt, or the newest token."""


class TextBatch:
    """Texts that a target continues greedily, a token each in every step.

    Args:
        target: On exact kernels.
        rows: How many a forward reads at most, if the texts are not more: prompts are read piece by piece.
    """

    def __init__(self, target: TargetModel, rows: int = 512):
        assert suits_batch(target), "only exact kernels read texts together"
        self._target, self._rows = target, rows
        self._texts: dict[int, _Text] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, number: int, prompt: Sequence[int], room: int) -> None:
        """Take in a text, named by a number, that may become `room` tokens longer.

        Raises:
            FalconError: The prompt is empty, or too long for the context.
        """
        self._target.check_room(len(prompt), room)
        slots = len(prompt) + room
        self._texts[number] = _Text(_decoder_of(self._target).new_cache(slots, slots), torch.tensor(prompt))

    def drop(self, number: int) -> None:
        """Forget a text."""
        del self._texts[number]

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """Read on: the number and the next token of each text whose prompt is read.

        Raises:
            FalconError: The scores are not finite numbers.
        """
        target, (texts, pieces) = self._target, self._next()
        features_TD = _read(target, pieces, [text.cache for _, text in texts])
        last_B = torch.tensor([len(piece) for piece in pieces]).cumsum(0) - 1
        scores = target.scores_of(features_TD[last_B], features_TD[last_B])
        found = []
        for place, ((number, text), piece) in enumerate(zip(texts, pieces, strict=True)):
            text.cache.commit(range(len(piece)))
            text.unread_L = text.unread_L[len(piece) :]
            if not len(text.unread_L):
                check_finite(scores, [place])
                text.unread_L = scores.choice_T[place : place + 1]
                found.append((number, int(text.unread_L)))
        return found

    def _next(self) -> tuple[list[tuple[int, _Text]], list[Tensor]]:
        """The texts of the next forward, and what it reads of each: newest tokens first, then prompts as they fit."""
        texts, pieces, left = [], [], self._rows
        for number, text in sorted(self._texts.items(), key=lambda named: len(named[1].unread_L)):
            size = max(left, 1 if len(text.unread_L) == 1 else 0)
            if size:
                texts.append((number, text))
                pieces.append(text.unread_L[:size])
                left = max(0, left - len(pieces[-1]))
        return texts, pieces


@torch.inference_mode()
def features_of(target: TargetModel, texts: Sequence[Tensor]) -> list[Tensor]:
    """What the LM head reads at every token of each text, [L, D], by one forward on exact kernels."""
    lengths = [len(text_L) for text_L in texts]
    caches = [_decoder_of(target).new_cache(length, length) for length in lengths]
    return list(_read(target, texts, caches).split(lengths))


def suits_batch(target: TargetModel) -> bool:
    """Whether a target is on exact kernels."""
    return target.native is not None and target.native.decoder is not None


def _read(target: TargetModel, pieces: Sequence[Tensor], caches: Sequence[PanelCache]) -> Tensor:
    """Read on in several texts: what the LM head reads at all their new tokens [T, D]; the caches keep nothing yet."""
    embedded_TD = target.model.get_input_embeddings()(torch.cat(list(pieces))).to(target.dtype)
    views = [View(cache.length, torch.arange(len(piece)), None) for piece, cache in zip(pieces, caches, strict=True)]
    return _decoder_of(target).read_together(embedded_TD, views, caches)


def _decoder_of(target: TargetModel) -> NativeDecoder:
    assert target.native is not None
    assert target.native.decoder is not None
    return target.native.decoder
