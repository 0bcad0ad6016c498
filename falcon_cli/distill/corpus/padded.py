"""Answers of a batch that is padded, on torch's operators.

Prompts of similar length make a batch, padded on the left. A row that has ended leaves the batch, and once a quarter of
the rows is free, further prompts fill them:

    . . q q a a a a        q  a prompt's token
    . q q q a a a END  →   . . . q q q a a        a  an answer's
    q q q q a a a a        . q q q q a a a        .  padding, cut off where every row has it

Shapes: B rows of the batch, L positions of the prompts, S cache slots.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from falcon_cli.kv_cache import cache_argument
from falcon_cli.target.guard.check import FAULTS
from falcon_cli.target.load import LoadedTarget

_PAD = 0
_ALIKE = {torch.bfloat16: 0.2, torch.float16: 0.05}
"""Largest difference of two logits that rounding explains, in units of the logits' spread; 2e-3 for wider dtypes."""
_PARTS = 4
"""Further prompts are read when one row in this many is free."""


@dataclass
class _Batch:
    """Rows whose answers have not ended."""

    rows: list[int]
    """Number of the prompt that each row answers."""
    seen_BS: Tensor
    """1 where a row has a token, 0 for padding."""
    position_B: Tensor
    token_B: Tensor
    """The newest tokens, not in the cache yet."""
    cache: Any
    features_BD: Tensor
    """Behind the newest tokens' predecessors: what those were chosen by."""

    @classmethod
    def empty(cls, device: torch.device) -> "_Batch":
        """A batch without rows."""
        nothing_B = torch.empty(0, dtype=torch.long, device=device)
        return cls([], nothing_B[:, None], nothing_B, nothing_B, DynamicCache(), nothing_B[:, None])


@torch.inference_mode()
def padded_answers(
    target: LoadedTarget, prompts: Sequence[Sequence[int]], max_new_tokens: int, rows: int
) -> Iterator[tuple[int, list[int]]]:
    """Answers as `answers.greedy_answers` gives them."""
    waiting = iter(enumerate(prompts))
    replies: dict[int, list[int]] = {}

    def ended(row: int) -> bool:
        reply = replies[row]
        return len(reply) >= room(target, prompts[row], max_new_tokens) or reply[-1] in target.stop_ids

    def take_ended(batch: _Batch) -> list[int]:
        """Append the new tokens to the replies; take the rows that end with them out of the batch, and return them."""
        for row, token in zip(batch.rows, batch.token_B.tolist(), strict=True):
            replies.setdefault(row, []).append(token)
        done = [row for row in batch.rows if ended(row)]
        if done:
            _keep(batch, [place for place, row in enumerate(batch.rows) if row not in done])
        return done

    with target.model.plain_transformers():
        batch = _Batch.empty(target.model.device)
        while True:
            free = rows - len(batch.rows)
            # Reading a prompt costs a forward in which the running rows wait, so it is done for several at once.
            next_prompts = list(islice(waiting, free)) if free >= max(1, rows // _PARTS) else []
            if next_prompts:
                # The first tokens come with the reading; a row that ends with its first never joins the batch.
                fresh = _prefilled(target, dict(next_prompts))
                done = take_ended(fresh)
                batch = _joined(batch, fresh)
            elif batch.rows:
                _advance(target, batch)
                done = take_ended(batch)
            else:
                return
            for row in done:
                yield row, replies.pop(row)


def room(target: LoadedTarget, prompt: Sequence[int], max_new_tokens: int) -> int:
    """How many tokens an answer may have."""
    return min(max_new_tokens, target.model.context_limit - len(prompt))


@torch.inference_mode()
def reads_padded(target: LoadedTarget) -> bool:
    """Whether a padded batch with a cache is read as each text is by itself, tried on two short prompts."""
    prompts = {number: [(7 * place + number) % target.model.vocab_size for place in range(length)]
               for number, length in enumerate((3, 9))}  # fmt: skip
    with target.model.plain_transformers():
        try:
            batch = _prefilled(target, prompts)
            texts = {row: [*prompts[row], token] for row, token in zip(batch.rows, batch.token_B.tolist(), strict=True)}
            _advance(target, batch)
            _keep(batch, [0])  # the padding in front of the shorter prompt is cut off
            texts[0].append(int(batch.token_B[0]))
            _advance(target, batch)
        except FAULTS:
            return False
        alone_LD = target.model.forward.features(torch.tensor([texts[0]], device=target.model.device))[0]
    alone_V, padded_V = (target.model.logits(rows).float() for rows in (alone_LD[-1], batch.features_BD[0]))
    return bool((alone_V - padded_V).abs().max() < _ALIKE.get(target.model.dtype, 2e-3) * alone_V.std())


def _prefilled(target: LoadedTarget, prompts: Mapping[int, Sequence[int]]) -> _Batch:
    """Read prompts, padded on the left, and choose each answer's first token."""
    longest, device = max(map(len, prompts.values())), target.model.device
    tokens_BL = torch.full((len(prompts), longest), _PAD, device=device)
    seen_BS = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for place, prompt in enumerate(prompts.values()):
        tokens_BL[place, longest - len(prompt) :] = torch.tensor(prompt)
        seen_BS[place, longest - len(prompt) :] = 1
    # Positions count real tokens only, so a row's rotary embedding does not depend on its padding.
    position_BL = (seen_BS.cumsum(-1) - 1).clamp_min(0)
    cache = DynamicCache()
    features_BD = _read(target, tokens_BL, seen_BS, position_BL, cache)
    return _Batch(list(prompts), seen_BS, position_BL[:, -1], _best(target, features_BD), cache, features_BD)


def _advance(target: LoadedTarget, batch: _Batch) -> None:
    """Read every row's newest token and choose the next."""
    batch.seen_BS = torch.cat([batch.seen_BS, torch.ones_like(batch.seen_BS[:, :1])], -1)
    batch.position_B = batch.position_B + 1
    batch.features_BD = _read(target, batch.token_B[:, None], batch.seen_BS, batch.position_B[:, None], batch.cache)
    batch.token_B = _best(target, batch.features_BD)


def _read(target: LoadedTarget, tokens: Tensor, seen: Tensor, position: Tensor, cache: Any) -> Tensor:
    """What the LM head reads at every row's last position [B, D]."""
    forward = target.model.forward
    option = {cache_argument(forward.reader): cache}
    features = forward.features(tokens, attention_mask=seen, position_ids=position, use_cache=True, **option)
    return features[:, -1]


def _best(target: LoadedTarget, features_BD: Tensor) -> Tensor:
    """The next token of every row."""
    return target.model.logits(features_BD).argmax(-1)


def _keep(batch: _Batch, places: list[int]) -> None:
    """Keep only these rows, and cut off the leading positions that are padding in all of them."""
    index = torch.tensor(places, dtype=torch.long, device=batch.token_B.device)
    batch.rows = [batch.rows[place] for place in places]
    batch.position_B, batch.token_B = batch.position_B[index], batch.token_B[index]
    batch.seen_BS = batch.seen_BS[index]
    # Every row ends at the right edge, so what all rows lack is a prefix: it begins at the longest row's first token.
    begin = int(batch.seen_BS.any(0).long().argmax()) if places else batch.seen_BS.shape[1]
    batch.seen_BS = batch.seen_BS[:, begin:]
    # The cache has one slot per column of `seen`, and is cut with it.
    for layer in batch.cache.layers:
        layer.keys, layer.values = layer.keys[index, :, begin:], layer.values[index, :, begin:]


def _joined(batch: _Batch, fresh: _Batch) -> _Batch:
    """A batch with the rows of another one below; the shorter one is padded on the left."""
    if not fresh.rows or not batch.rows:
        return fresh if fresh.rows else batch
    length = max(batch.seen_BS.shape[1], fresh.seen_BS.shape[1])

    def joined(old: Tensor, new: Tensor, dim: int) -> Tensor:
        # `pad` counts dimensions from the last one: none of those after `dim` is padded, `dim` only in front.
        after = (0, 0) * (old.dim() - 1 - dim)
        return torch.cat([pad(rows, (*after, length - rows.shape[dim], 0)) for rows in (old, new)])

    batch.rows += fresh.rows
    batch.position_B = torch.cat([batch.position_B, fresh.position_B])
    batch.token_B = torch.cat([batch.token_B, fresh.token_B])
    batch.seen_BS = joined(batch.seen_BS, fresh.seen_BS, 1)
    for old, new in zip(batch.cache.layers, fresh.cache.layers, strict=True):
        old.keys, old.values = joined(old.keys, new.keys, 2), joined(old.values, new.values, 2)
    return batch
