"""What quantised weights cost in quality: `make quality`, or `python -m falcon_cli.studies quality [KEY=VALUE ...]`.

Keys are those of a bench recipe, and `run_code`. Every kind of weights reads the same texts: the data set's questions,
and the greedy answers of the full-precision target. The table shows the perplexity of questions and of answers, how
often the first choice is the full-precision one (teacher-forced), and how much of a free-running answer precedes the
first token that differs; for GSM8K how many free-running answers end in the right number, for HumanEval how many pass
their tests (`run_code=true`), with 95 % intervals and the questions won and lost against full precision. Drafted
decoding answers too: by `methods`, or by what `falcon generate` takes (`methods=[ar]`: by none); the table shows how
many answers are plain decoding's, by ids.

Each question is kept as soon as it is read, and each program as soon as it was run, under `$FALCON_HOME/quality`; the
same command continues where it was stopped.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from falcon_cli.bench.figures.certificate import TokenIds
from falcon_cli.console import progress, say, show
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.datasets import load
from falcon_cli.data.prompts import Question
from falcon_cli.data.sets.humaneval import problems
from falcon_cli.errors import FalconError
from falcon_cli.methods.defaults import DEFAULT_METHOD
from falcon_cli.methods.grammar import MethodChoice, choose, load_context
from falcon_cli.native.build import version
from falcon_cli.recipe.load import dump
from falcon_cli.recipe.schema import BenchRecipe, Quantize
from falcon_cli.sources import append_line, disk_errors, home, is_gguf, resolve_target, whole_lines
from falcon_cli.studies.quality.figures import Quality, Solved
from falcon_cli.studies.quality.marks import CodeMarks, numbers_right
from falcon_cli.studies.quality.reading import Reading, read
from falcon_cli.studies.quality.sandbox import Sandbox

_KINDS: tuple[Quantize, ...] = get_args(Quantize)
_FORM = "2"  # of the logs: another one leaves the logs that lie there alone


@dataclass(frozen=True)
class QualityRecipe(BenchRecipe):
    """What to read, and whether answers may be run."""

    methods: tuple[str, ...] | None = None
    """Methods whose ids are held against plain decoding's; None takes what falcon generate takes, [ar] none."""
    run_code: bool = False
    """Run the code in humaneval's answers, for pass@1: a model's own programs run here, in a sandbox with limits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run_code and self.dataset != "humaneval":
            raise FalconError(f"run_code is for dataset humaneval, not {self.dataset}: leave it out")


Marker = Callable[[str, Sequence[str]], list[bool]]
"""A name for the progress bar, and the answers to all questions → which of them are right."""


def run(recipe: QualityRecipe) -> None:
    """Compare all kinds of weights; print a line as each is done, and a table at the end.

    Raises:
        FalconError: The target, the data or a method cannot be had, or code cannot be run here.
    """
    choices = _choices(recipe)
    questions = load(recipe.dataset, recipe.limit).questions
    log = _log(recipe, questions, choices)
    marker = _marker(recipe, questions, log)
    exact: list[Reading] = []
    marks: dict[str, list[bool]] = {}
    rows: dict[str, dict[str, str]] = {}
    try:
        for kind in _kinds(recipe):
            name = "fp32" if kind == "none" else kind
            found = _readings(kind, questions, recipe, choices, log, [reading.own for reading in exact])
            exact = exact or found
            quality = Quality.of(found, exact)
            rows[name] = _row(quality)
            if marker is not None:
                marks[name] = marker(f"the code of {name}", [reading.text for reading in found])
                rows[name] |= _solved_row(Solved.of_marks(marks[name], marks["fp32"]), recipe.dataset)
            say(f"{name}: " + ", ".join(f"{head} {cell}" for head, cell in rows[name].items()))
            if quality.cut:
                say(f"{name}: {quality.cut} answers were cut at {recipe.max_new_tokens} tokens (max_new_tokens)")
    except KeyboardInterrupt:
        say(f"what was read is kept in {log}; the same command goes on")
        raise
    _print(rows, recipe, len(questions))


def _kinds(recipe: QualityRecipe) -> list[Quantize]:
    """The kinds of weights that a target can have: a file's own blocks only where it is a GGUF file."""
    where = resolve_target(recipe.target.model)
    in_blocks = isinstance(where, Path) and is_gguf(where)
    return [kind for kind in _KINDS if kind != "file" or in_blocks]


def _choices(recipe: QualityRecipe) -> list[MethodChoice]:
    """The methods that answer beside plain decoding.

    Raises:
        UsageError: One is unknown or lacks what it needs.
    """
    choices = [choice for choice in map(choose, recipe.methods or (DEFAULT_METHOD,)) if choice.key != "ar"]
    for choice in choices:
        choice.check(recipe)
    return choices


def _log(recipe: QualityRecipe, questions: Sequence[Question], choices: Sequence[MethodChoice]) -> Path:
    """Where readings are kept. Whether answers are run changes no reading."""
    methods = tuple(choice.name for choice in choices)
    plan = _FORM + dump(replace(recipe, run_code=False, methods=methods or None)) + version() + repr(questions)
    return home() / "quality" / f"{hashlib.sha256(plan.encode()).hexdigest()[:16]}.jsonl"


def _marker(recipe: QualityRecipe, questions: Sequence[Question], log: Path) -> Marker | None:
    """How answers are marked; None where they are not.

    Raises:
        FalconError: Code is to be run, and cannot be.
    """
    if recipe.dataset == "gsm8k":
        return lambda name, answers: numbers_right(questions, answers)
    if not recipe.run_code:
        return None
    code = CodeMarks(problems(), Sandbox.open(), log.with_suffix(".code.jsonl"))
    return lambda name, answers: [outcome.mark == "passed" for outcome in code.outcomes(name, questions, answers)]


def _readings(
    kind: Quantize,
    questions: Sequence[Question],
    recipe: QualityRecipe,
    choices: Sequence[MethodChoice],
    log: Path,
    answers: Sequence[TokenIds],
) -> list[Reading]:
    """Each question under one kind of weights; those in the log are not read again.

    Without `answers` these are the full-precision weights.
    """
    found = _kept(log, kind)
    if len(found) == len(questions):
        return found
    held = replace(recipe, target=replace(recipe.target, quantize=kind, kernels="native"))
    context = load_context(held, choices)
    drafters = {choice.name: choice.build(context) for choice in choices}
    chat = ChatTemplate.of(recipe, context.target.tokenizer)
    title = f"reading in {'fp32' if kind == 'none' else kind}"
    with progress(title, len(questions), "questions") as bar, disk_errors(log.parent):
        bar.advance(len(found))
        log.parent.mkdir(parents=True, exist_ok=True)
        for place, question in list(enumerate(questions))[len(found) :]:
            prompt = chat.prompt(question.messages(), question.tools)
            answer = answers[place] if answers else None
            found.append(read(context.target, prompt, recipe.max_new_tokens, answer, drafters))
            append_line(log, json.dumps({"weights": kind, **asdict(found[-1])}, separators=(",", ":")))
            bar.advance()
    return found


def _kept(log: Path, kind: str) -> list[Reading]:
    """The readings of one kind of weights in a log, in the questions' order."""
    entries = map(json.loads, whole_lines(log))
    return [Reading(**entry) for entry in entries if entry.pop("weights") == kind]


def _row(found: Quality) -> dict[str, str]:
    return {
        "perplexity: questions": f"{found.prompt_perplexity:.2f}",
        "answers": f"{found.answer_perplexity:.3f}",
        "first choice alike": f"{100 * found.agreement:.1f} %",
        "answer alike until": f"{100 * found.alike:.0f} %",
        **{f"{name} = plain": f"{count} of {found.questions}" for name, count in found.identical.items()},
    }


def _solved_row(found: Solved, dataset: str) -> dict[str, str]:
    head = "pass@1" if dataset == "humaneval" else "accuracy"
    return {f"{head} [95 %]": str(found), "against fp32": found.changes}


def _print(rows: dict[str, dict[str, str]], recipe: QualityRecipe, questions: int) -> None:
    from rich.table import Table

    caption = None
    if recipe.dataset == "humaneval" and not recipe.run_code:
        caption = "No pass@1: run_code=true runs the answers' code in a sandbox (see --help); what was read is kept."
    heads = next(iter(rows.values()))
    table = Table(title=f"{recipe.target.model}: {questions} questions of {recipe.dataset}", caption=caption)
    for head in ("weights", *heads):
        table.add_column(head, overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *row.values())
    show(table)
