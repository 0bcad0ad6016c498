"""The texts that trees are fitted to: the target's own greedy answers to prompts that no drafter was trained on.

Prompts come in the order of a hash of their names, which is the order in which `falcon distill` holds dialogues out: a
drafter trained on the same data set has not seen the first of them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from falcon_cli.core import Drafter
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.datasets import load
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.errors import FalconError
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.sources import append_line, disk_errors, whole_lines
from falcon_cli.target.load import LoadedTarget


@dataclass(frozen=True)
class CalibrationPrompt:
    """A prompt in token ids."""

    id: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class GreedyText:
    """A prompt and the target's own greedy answer."""

    prompt: CalibrationPrompt
    answer: tuple[int, ...]


def prompts_of(recipe: TuneTreeRecipe, target: LoadedTarget, date: datetime | None = None) -> list[CalibrationPrompt]:
    """Prompts to calibrate on, followed by those for validation; a template that writes the date is told this one.

    Raises:
        FalconError: There are too few.
    """
    questions = sorted(
        load(recipe.dataset).questions, key=lambda question: hashlib.sha256(question.id.encode()).digest()
    )
    wanted = recipe.prompts + recipe.validation_prompts
    chat = ChatTemplate.of(recipe, target.tokenizer, date)
    prompts = []
    for question in questions:
        ids = chat.prompt(question.messages(), question.tools)
        room = target.model.context_limit - recipe.max_new_tokens
        if (
            max(ids) < target.model.embedding_rows
            and len(ids) <= min(recipe.max_prompt_tokens, room)
            and _is_plain(question.turns[0])
        ):
            prompts.append(CalibrationPrompt(question.id, tuple(ids)))
        if len(prompts) == wanted:
            return prompts
    if len(prompts) < 4:
        raise FalconError(
            f"{recipe.dataset} gives {len(prompts)} prompts of at most {recipe.max_prompt_tokens} tokens, and a tree "
            "takes 4 at least: name a larger --dataset"
        )
    return prompts


def share_out(
    prompts: Sequence[CalibrationPrompt], recipe: TuneTreeRecipe
) -> tuple[list[CalibrationPrompt], list[CalibrationPrompt]]:
    """Prompts to calibrate on and prompts for validation, in the recipe's proportion."""
    wanted = recipe.prompts + recipe.validation_prompts
    first = len(prompts) * recipe.prompts // wanted
    return list(prompts[:first]), list(prompts[first:])


def answers_to(
    prompts: Sequence[CalibrationPrompt],
    target: LoadedTarget,
    drafter: Drafter,
    limit: int,
    log: Path,
    tick: Callable[[], None],
) -> list[GreedyText]:
    """The target's answers; answers in the log are not asked for again.

    Raises:
        FalconError: The log cannot be written.
    """
    known = dict(_logged(log))
    texts = []
    for prompt in prompts:
        if prompt.ids not in known:
            answer = complete(target.model, drafter, list(prompt.ids), Stop(target.stop_ids, limit)).ids
            with disk_errors(log.parent):
                append_line(log, json.dumps({"prompt_ids": prompt.ids, "response_ids": answer}))
            known[prompt.ids] = tuple(answer)
        texts.append(GreedyText(prompt, known[prompt.ids][:limit]))
        tick()
    return texts


def _logged(log: Path) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for line in whole_lines(log):
        entry = json.loads(line)
        yield tuple(entry["prompt_ids"]), tuple(entry["response_ids"])


def _is_plain(text: str) -> bool:
    """Whether nearly all letters are ASCII, as in the recipes' texts."""
    letters = [letter for letter in text if letter.isalpha()]
    return not letters or sum(letter.isascii() for letter in letters) >= 0.9 * len(letters)
