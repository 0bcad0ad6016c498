"""What quantised weights cost in quality: `make quality`, or `python -m falcon_cli.studies quality [KEY=VALUE ...]`.

Keys are those of a bench recipe. Every kind of weights reads the same texts: the data set's questions, and the greedy
answers of the full-precision target. The table shows the perplexity of questions and of answers, how often the first
choice is the full-precision one (teacher-forced), and how much of a free-running answer precedes the first token that
differs; for GSM8K also how many free-running answers end in the right number. Each question is kept as soon as it is
read, under `$FALCON_HOME/quality`; the same command continues where it was stopped.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from typing import get_args

import torch

from falcon_cli.bench.figures.certificate import TokenIds, first_difference
from falcon_cli.console import progress, say, show
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.datasets import load
from falcon_cli.data.prompts import Question
from falcon_cli.data.sets.gsm8k import solved
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.native.build import version
from falcon_cli.recipe.load import dump
from falcon_cli.recipe.schema import BenchRecipe, Quantize
from falcon_cli.sources import append_line, disk_errors, home, whole_lines
from falcon_cli.target.load import LoadedTarget, load_target

_KINDS: tuple[Quantize, ...] = get_args(Quantize)


@dataclass(frozen=True)
class Reading:
    """One question, read with one kind of weights."""

    prompt: TokenIds
    own: TokenIds
    """The free-running answer of these weights."""
    prompt_nats: float
    answer_nats: float
    """Minus the log-likelihoods of the prompt (but its first token) and of the full-precision answer."""
    agreed: int
    """Tokens of the full-precision answer that are the first choice of these weights too."""
    solved: bool | None
    """Whether the free-running answer is right; None where the question has no reference."""


@dataclass(frozen=True)
class Quality:
    """One kind of weights over all questions."""

    prompt_perplexity: float
    answer_perplexity: float
    agreement: float
    """Share of the full-precision answers' tokens that are the first choice of these weights too."""
    alike: float
    """Share of a free-running answer before the first token that differs."""
    solved: int | None
    """Questions answered right, of those that have a reference; None where none has."""

    @classmethod
    def of(cls, found: Sequence[Reading], exact: Sequence[Reading]) -> "Quality":
        """Compare readings with those in full precision, question by question."""
        answers = [reading.own for reading in exact]
        tokens = sum(map(len, answers))
        alike = [_alike(reading.own, answer) for reading, answer in zip(found, answers, strict=True)]
        marked = [reading.solved for reading in found if reading.solved is not None]
        return cls(
            exp(sum(reading.prompt_nats for reading in found) / sum(len(reading.prompt) - 1 for reading in found)),
            exp(sum(reading.answer_nats for reading in found) / tokens),
            sum(reading.agreed for reading in found) / tokens,
            sum(alike) / len(alike),
            sum(marked) if marked else None,
        )


@torch.inference_mode()
def read(
    target: LoadedTarget, prompt: TokenIds, limit: int, answer: TokenIds | None = None, reference: str | None = None
) -> Reading:
    """Answer a prompt, and read it with the full-precision answer, teacher-forced.

    Args:
        target: The model under one kind of weights.
        prompt: Token ids, two at least.
        limit: Most new tokens.
        answer: Full precision's; None where this is full precision.
        reference: The right number, where the question has one.
    """
    own = complete(target.model, Autoregressive(target.model.device), prompt, Stop(target.stop_ids, limit)).ids
    ids_L = torch.tensor(prompt + (own if answer is None else answer))
    logits_LV = target.model.logits(target.model.prefill(ids_L).features_TD)[:-1].float()
    nats_L = torch.nn.functional.cross_entropy(logits_LV, ids_L[1:], reduction="none").double()
    agrees_L = logits_LV.argmax(-1) == ids_L[1:]
    begin = len(prompt) - 1
    right = None
    if reference is not None:
        right = solved(target.tokenizer.decode(own, skip_special_tokens=True), reference)
    return Reading(
        prompt, own, float(nats_L[:begin].sum()), float(nats_L[begin:].sum()), int(agrees_L[begin:].sum()), right
    )


def run(recipe: BenchRecipe) -> None:
    """Compare all kinds of weights; print a line as each is done, and a table at the end."""
    questions = load(recipe.dataset, recipe.limit).questions
    plan = dump(recipe) + version() + repr(questions)
    log = home() / "quality" / f"{hashlib.sha256(plan.encode()).hexdigest()[:16]}.jsonl"
    exact: list[Reading] = []
    found: dict[str, Quality] = {}
    try:
        for kind in _KINDS:
            readings = _readings(kind, questions, recipe, log, [reading.own for reading in exact])
            exact = exact or readings
            found[_name(kind)] = Quality.of(readings, exact)
            say(f"{_name(kind)}: " + ", ".join(f"{name} {cell}" for name, cell in _row(found[_name(kind)]).items()))
    except KeyboardInterrupt:
        say(f"what was read is kept in {log}; the same command goes on")
        raise
    _print(found, f"{recipe.target.model}: {len(questions)} questions of {recipe.dataset}")


def _readings(
    kind: Quantize, questions: Sequence[Question], recipe: BenchRecipe, log: Path, answers: Sequence[TokenIds]
) -> list[Reading]:
    """Each question under one kind of weights; those in the log are not read again.

    Without `answers` these are the full-precision weights.
    """
    found = _kept(log, kind)
    if len(found) == len(questions):
        return found
    target = load_target(replace(recipe.target, quantize=kind, kernels="native"))
    chat = ChatTemplate.of(recipe, target.tokenizer)
    with progress(f"reading in {_name(kind)}", len(questions), "questions") as bar, disk_errors(log.parent):
        bar.advance(len(found))
        log.parent.mkdir(parents=True, exist_ok=True)
        for place, question in list(enumerate(questions))[len(found) :]:
            prompt = chat.prompt(question.messages(), question.tools)
            reference = question.reference if recipe.dataset == "gsm8k" else None
            answer = answers[place] if answers else None
            found.append(read(target, prompt, recipe.max_new_tokens, answer, reference))
            append_line(log, json.dumps({"weights": kind, **asdict(found[-1])}, separators=(",", ":")))
            bar.advance()
    return found


def _kept(log: Path, kind: str) -> list[Reading]:
    """The readings of one kind of weights in a log, in the questions' order."""
    entries = map(json.loads, whole_lines(log))
    return [Reading(**entry) for entry in entries if entry.pop("weights") == kind]


def _print(found: dict[str, Quality], title: str) -> None:
    from rich.table import Table

    rows = {name: _row(quality) for name, quality in found.items()}
    table = Table("weights", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        table.add_row(name, *row.values())
    show(table)


def _row(found: Quality) -> dict[str, str]:
    return {
        "perplexity: questions": f"{found.prompt_perplexity:.2f}",
        "answers": f"{found.answer_perplexity:.3f}",
        "first choice alike": f"{100 * found.agreement:.1f} %",
        "answer alike until": f"{100 * found.alike:.0f} %",
        "solved": "–" if found.solved is None else str(found.solved),
    }


def _name(kind: str) -> str:
    return "fp32" if kind == "none" else kind


def _alike(own: TokenIds, answer: TokenIds) -> float:
    place = first_difference(answer, own)
    return 1.0 if place is None else place / len(answer)
