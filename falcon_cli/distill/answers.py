"""The target answers the corpus' prompts itself, greedily: many at a time, written as they come.

    {"id": "abc/0", "prompt_ids": [...], "response_ids": [...]}       the end-of-turn token included, where it came

Prompts of like length make a batch, padded on the left; a row that has ended leaves the batch. A kill loses the batch
being answered: its prompts are asked again.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from falcon_cli.console import progress, say
from falcon_cli.distill.corpus import Prompt
from falcon_cli.recipe.distill import AnswersRecipe
from falcon_cli.sources import disk_errors
from falcon_cli.target.load import LoadedTarget

_PAD = 0


def target_answers(
    target: LoadedTarget, prompts: Sequence[Prompt], recipe: AnswersRecipe, path: Path, rank: int = 0, world: int = 1
) -> None:
    """Answer this process's share of the prompts that no file holds yet.

    Args:
        target: Who answers.
        prompts: All prompts, the same in every process.
        recipe: Length and batch size.
        path: JSON lines file; process n > 0 writes to its own, `answers.n.jsonl`.
        rank: This process.
        world: How many there are.

    Raises:
        FalconError: The disk is full.
    """
    known = read_answers(path, prompts)
    todo = [prompt for prompt in prompts[rank::world] if prompt.id not in known]
    if not todo:
        return
    todo.sort(key=lambda prompt: len(prompt.tokens))
    mine = path if rank == 0 else path.with_suffix(f".{rank}.jsonl")
    mend(mine)
    began, tokens = perf_counter(), 0
    with progress("answering", len(todo), "prompts") as bar, disk_errors(path.parent):
        for begin in range(0, len(todo), recipe.batch_size):
            batch = todo[begin : begin + recipe.batch_size]
            replies = greedy_batch(target, [prompt.tokens for prompt in batch], recipe.max_new_tokens)
            with mine.open("a") as stream:
                for prompt, reply in zip(batch, replies, strict=True):
                    line = {"id": prompt.id, "prompt_ids": list(prompt.tokens), "response_ids": reply}
                    stream.write(json.dumps(line) + "\n")
            tokens += sum(map(len, replies))
            bar.advance(len(batch))
            bar.update(note=f"{tokens / (perf_counter() - began):,.0f} tokens/s")
    seconds = perf_counter() - began
    say(f"answers: {tokens:,} tokens in {seconds / 60:.1f} min ({tokens / seconds:,.0f} tokens/s)")


def read_answers(path: Path, prompts: Iterable[Prompt]) -> dict[str, tuple[int, ...]]:
    """Answers to these very prompts, from the files of all processes; a line cut short is left out."""
    asked = {prompt.id: prompt.tokens for prompt in prompts}
    found: dict[str, tuple[int, ...]] = {}
    for file in [path, *sorted(path.parent.glob(f"{path.stem}.*.jsonl"))]:
        for line in file.read_text().splitlines() if file.is_file() else []:
            try:
                record: dict[str, Any] = json.loads(line)
                name, prompt, reply = record["id"], tuple(record["prompt_ids"]), tuple(record["response_ids"])
            except (ValueError, KeyError, TypeError):
                continue
            if asked.get(name) == prompt:
                found[name] = reply
    return found


def mend(path: Path) -> None:
    """Take a last line that a kill cut short off the file, which then stays one that the corpus can be read from."""
    if not path.is_file():
        return
    whole = path.stat().st_size
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                whole -= len(line)
    os.truncate(path, whole)


@dataclass
class _Batch:
    """Rows still being answered."""

    rows: list[int]
    """Which prompt each row answers."""
    seen_BS: Tensor
    """1 where a row has a token, 0 for padding."""
    position_B: Tensor
    token_B: Tensor
    cache: Any


@torch.inference_mode()
def greedy_batch(target: LoadedTarget, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """The target's greedy answers, each ended by a stop token (kept) or the length limit."""
    replies: list[list[int]] = [[] for _ in prompts]
    limit = target.model.context_limit
    with target.model.plain_transformers() as model:
        batch = _prefilled(target, model, prompts)
        while batch.rows:
            for row, token in zip(batch.rows, batch.token_B.tolist(), strict=True):
                replies[row].append(token)
            going = [
                place
                for place, row in enumerate(batch.rows)
                if replies[row][-1] not in target.stop_ids
                and len(replies[row]) < max_new_tokens
                and len(prompts[row]) + len(replies[row]) < limit
            ]
            if len(going) < len(batch.rows):
                _keep(batch, going)
            if batch.rows:
                _advance(target, model, batch)
    return replies


def _prefilled(target: LoadedTarget, model: Any, prompts: Sequence[Sequence[int]]) -> _Batch:
    """Read all prompts, padded on the left, and choose the first tokens."""
    longest, device = max(map(len, prompts)), target.model.device
    tokens_BL = torch.full((len(prompts), longest), _PAD, device=device)
    seen_BS = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        tokens_BL[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen_BS[row, longest - len(prompt) :] = 1
    position_BL = (seen_BS.cumsum(-1) - 1).clamp_min(0)
    cache = DynamicCache()
    token_B = _choose(target, model, tokens_BL, seen_BS, position_BL, cache)
    return _Batch(list(range(len(prompts))), seen_BS, position_BL[:, -1], token_B, cache)


def _advance(target: LoadedTarget, model: Any, batch: _Batch) -> None:
    batch.seen_BS = torch.cat([batch.seen_BS, torch.ones_like(batch.seen_BS[:, :1])], -1)
    batch.position_B = batch.position_B + 1
    batch.token_B = _choose(
        target, model, batch.token_B[:, None], batch.seen_BS, batch.position_B[:, None], batch.cache
    )


def _choose(target: LoadedTarget, model: Any, tokens: Tensor, seen: Tensor, position: Tensor, cache: Any) -> Tensor:
    """The next token of every row, from the LM head at the last position only."""
    hidden = model.get_decoder()(
        input_ids=tokens, attention_mask=seen, position_ids=position, past_key_values=cache, use_cache=True
    ).last_hidden_state[:, -1]
    best: Tensor = target.model.head(hidden).argmax(-1)
    return best


def _keep(batch: _Batch, places: list[int]) -> None:
    """Leave the ended rows behind."""
    index = torch.tensor(places, dtype=torch.long, device=batch.token_B.device)
    batch.rows = [batch.rows[place] for place in places]
    batch.position_B, batch.token_B = batch.position_B[index], batch.token_B[index]
    batch.seen_BS = batch.seen_BS[index]
    if places:
        batch.cache.batch_select_indices(index)
