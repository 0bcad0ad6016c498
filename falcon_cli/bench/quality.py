"""What quantised weights cost in quality: `make quality`, or `python -m falcon_cli.bench.quality KEY=VALUE ...`.

Every kind of weights reads the same texts: the data set's questions, and the full-precision target's own greedy
answers to them. Told are the perplexity of the questions' text and of the answers, how often the first choice is the
full-precision one (teacher-forced), and how much of a free-running answer comes before the first other token; for
GSM8K also how many of the free-running answers end in the right number.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any, get_args

import torch
from torch import Tensor

from falcon_cli.baselines.autoregressive import Autoregressive
from falcon_cli.bench.certificate import first_difference
from falcon_cli.bench.runner import Contest
from falcon_cli.console import progress, show
from falcon_cli.data.datasets import load
from falcon_cli.data.gsm8k import solved
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe, Quantize
from falcon_cli.target.load import LoadedTarget, load_target

Ids = list[int]


@dataclass(frozen=True)
class Text:
    """A prompt with the full-precision target's answer."""

    prompt: Ids
    answer: Ids
    reference: str | None = None
    """The right number, where the question has one."""


@dataclass(frozen=True)
class Quality:
    """One kind of weights, over all texts."""

    prompt_perplexity: float
    answer_perplexity: float
    agreement: float
    """Share of the answers' tokens that are its first choice too."""
    alike: float
    """Share of a free-running answer before its first other token."""
    solved: int | None
    """Questions answered right, of those that have a reference; None when none has."""


def greedy(target: LoadedTarget, prompt: Ids, limit: int) -> Ids:
    """Plain decoding's ids."""
    plain = Autoregressive(target.model.device)
    return complete(target.model, plain, prompt, Stop(target.stop_ids, limit)).ids


@torch.inference_mode()
def quality(target: LoadedTarget, texts: Sequence[Text], limit: int) -> Quality:
    """Read every text once, teacher-forced, and answer every prompt."""
    of_prompts, of_answers, agreed, alike, right = [], [], [], [], []
    for text in texts:
        ids_L = torch.tensor(text.prompt + text.answer)
        logits_LV = target.model.head(target.model.prefill(ids_L).features_TD)[:-1].float()
        loss_L = torch.nn.functional.cross_entropy(logits_LV, ids_L[1:], reduction="none")
        begin = len(text.prompt) - 1
        of_prompts.append(loss_L[:begin])
        of_answers.append(loss_L[begin:])
        agreed.append((logits_LV.argmax(-1) == ids_L[1:])[begin:].float())
        own = greedy(target, text.prompt, limit)
        place = first_difference(text.answer, own)
        alike.append(1.0 if place is None else place / len(text.answer))
        if text.reference is not None:
            right.append(solved(target.tokenizer.decode(own, skip_special_tokens=True), text.reference))
    return Quality(
        exp(_mean(of_prompts)),
        exp(_mean(of_answers)),
        _mean(agreed),
        sum(alike) / len(alike),
        sum(right) if right else None,
    )


def main(settings: Sequence[str]) -> None:
    """Compare all kinds of weights; prints one table."""
    from rich.table import Table

    recipe = load_recipe(BenchRecipe, None, ["limit=20", "max_new_tokens=128", *settings])
    table = Table("weights", "perplexity: questions", "answers", "first choice alike", "answer alike until", "solved")
    texts: list[Text] = []
    for kind in get_args(Quantize):
        target = load_target(replace(recipe.target, quantize=kind, kernels="native"))
        texts = texts or _texts(target, recipe)
        found = quality(target, texts, recipe.max_new_tokens)
        table.add_row(
            "fp32" if kind == "none" else kind,
            f"{found.prompt_perplexity:.2f}",
            f"{found.answer_perplexity:.3f}",
            f"{100 * found.agreement:.1f} %",
            f"{100 * found.alike:.0f} %",
            "–" if found.solved is None else f"{found.solved} of {len(texts)}",
        )
    table.title = f"{recipe.target.model}: {len(texts)} questions of {recipe.dataset}"
    show(table)


def _texts(target: LoadedTarget, recipe: BenchRecipe) -> list[Text]:
    contest: Any = Contest(target, {}, recipe.max_new_tokens)
    texts = []
    with progress("answering in full precision", recipe.limit or 0, "questions") as bar:
        for question in load(recipe.dataset, recipe.limit).questions:
            prompt = contest.prompt(question, 0, ())
            reference = question.reference if recipe.dataset == "gsm8k" else None
            texts.append(Text(prompt, greedy(target, prompt, recipe.max_new_tokens), reference))
            bar.advance()
    return texts


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
