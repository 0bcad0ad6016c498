"""`falcon bench` from recipe to results document: prepare, measure, certify, sum up, write."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from falcon_cli.bench.figures.bandwidth import bandwidth_bound
from falcon_cli.bench.figures.certificate import TokenIds, certify, first_difference
from falcon_cli.bench.figures.document import Figures, ResultsDocument
from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.bench.figures.summary import BASELINE, summarise
from falcon_cli.bench.folder import BenchFolder
from falcon_cli.bench.measuring.peers import check_peer, peer_answers
from falcon_cli.bench.measuring.session import BenchmarkSession, method_answer
from falcon_cli.console import progress, say, warn
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.datasets import Loaded, load
from falcon_cli.data.prompts import Question
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.defaults import default_methods
from falcon_cli.methods.grammar import MethodChoice, choose, load_context
from falcon_cli.recipe.provenance import now, provenance, without_folders
from falcon_cli.recipe.schema import BenchRecipe
from falcon_cli.target.reference.ask import TOKENS
from falcon_cli.target.reference.hold import ReferenceEntry, hold, told


def bench(recipe: BenchRecipe, argv: Sequence[str], out: Path | None = None, resume: bool = False) -> ResultsDocument:
    """Run a benchmark and return its results document (written to `out` too, with answers, report and picture).

    Raises:
        FalconError: Anything of the recipe cannot be used; all of it is checked before the first answer.
    """
    recipe = resolved(recipe)
    choices = _choices(recipe)
    folder = BenchFolder.open(out, recipe, argv, resume) if out else None
    data = load(recipe.dataset, recipe.limit, recipe.keep_going)
    if data.skipped:
        warn(f"{data.name}: {data.skipped} malformed lines skipped")
    first = data.questions[0]
    date = folder.date if folder else now()  # a run that is gone on with renders its prompts as on its first day

    def first_prompt(tokenizer: Any) -> list[int]:
        return ChatTemplate.of(recipe, tokenizer, date).prompt(first.messages(), first.tools)

    context = load_context(recipe, choices, first_prompt)
    session = _session(recipe, context, choices, ChatTemplate.of(recipe, context.target.tokenizer, date))
    questions = _fitting(session, data, recipe.keep_going)
    reference = _reference(session, first.id)
    records = _measure(session, questions, folder)
    results = _document(recipe, session, questions, records, reference, argv)
    if folder:
        folder.write(results, records)
    return results


def resolved(recipe: BenchRecipe) -> BenchRecipe:
    """The recipe with its methods named, where it leaves them open."""
    return replace(recipe, methods=recipe.methods or default_methods(recipe))


def _choices(recipe: BenchRecipe) -> list[MethodChoice]:
    """The methods, the baseline first, each once."""
    for peer in recipe.peers:
        check_peer(peer, recipe.target)
    called: dict[str, MethodChoice] = {}
    for choice in map(choose, [BASELINE, *(recipe.methods or ())]):
        if called.setdefault(choice.name, choice) != choice or choice.name in recipe.peers:
            raise UsageError(f"two methods are called {choice.name}: give one another name, as in pld as LABEL")
    for choice in called.values():
        choice.check(recipe)
    return list(called.values())


def _session(
    recipe: BenchRecipe, context: DraftingContext, choices: Sequence[MethodChoice], chat: ChatTemplate
) -> BenchmarkSession:
    answers = {choice.name: method_answer(context.target, choice.build(context)) for choice in choices}
    answers |= peer_answers(recipe.peers, recipe.target, context.target)
    return BenchmarkSession(context.target, chat, answers, recipe.max_new_tokens, recipe.repeats, recipe.seed)


def _fitting(session: BenchmarkSession, data: Loaded, keep_going: bool) -> list[Question]:
    fitting = []
    for question in data.questions:
        try:
            session.check(question)
            fitting.append(question)
        except FalconError as error:
            if not keep_going:
                raise
            warn(f"skipped: {error}")
    if not fitting:
        raise FalconError(f"{data.name}: no question fits the target's context; ask for fewer new tokens")
    return fitting


def _reference(session: BenchmarkSession, question: str) -> ReferenceEntry | None:
    """Plain decoding against the model's own words; a failure is told before anything is measured for hours."""
    reference = session.target.reference
    if reference is None:
        return None
    ids = [] if reference.reason else session.answers[BASELINE](reference.prompt, TOKENS).ids
    entry = hold(session.target, ids, question)
    if entry["verdict"] == "FAILED":
        warn(told(entry))
    return entry


def _measure(session: BenchmarkSession, questions: Sequence[Question], folder: BenchFolder | None) -> list[TurnRecord]:
    """Records of all questions, those that the folder already holds first."""
    wanted = {question.id for question in questions}
    done = [records for records in folder.log.read() if records[0].question_id in wanted] if folder else []
    known = {records[0].question_id for records in done}
    if known:
        say(f"resuming: {len(known)} of {len(questions)} questions are already measured")
    todo = [question for question in questions if question.id not in known]
    if todo:
        session.warm_up(todo[0])
    try:
        with progress("benchmarking", len(questions), "questions") as bar:
            bar.advance(len(known))
            for question in todo:
                records = list(session.ask(question))
                if folder:
                    folder.log.append(records)
                done.append(records)
                bar.advance()
    except KeyboardInterrupt:
        if folder:
            say(f"{len(done)} of {len(questions)} questions are kept in {folder.path}; add --resume to go on")
        raise
    return [record for records in done for record in records]


def _document(
    recipe: BenchRecipe,
    session: BenchmarkSession,
    questions: Sequence[Question],
    records: Sequence[TurnRecord],
    reference: ReferenceEntry | None,
    argv: Sequence[str],
) -> ResultsDocument:
    """The results document, certificate included."""
    target = session.target
    summed = summarise(records, BASELINE, peers=recipe.peers, seed=recipe.seed)
    figures: Figures = {
        "methods": {name: summed["methods"][name] for name in session.answers if name in summed["methods"]},
        "peers": {name: summed["peers"][name] for name in session.answers if name in summed["peers"]},
    }
    _certify(session, records, recipe.peers, figures)
    return {
        "schema": 1,
        "target": without_folders(recipe.target.model),
        "dataset": without_folders(recipe.dataset),
        "prompts": len(questions),
        "reference": reference,
        "settings": {
            "dtype": target.dtype,
            "kernels": "torch" if target.model.native is None else "native",
            "weights": target.dtype if target.model.native is None else target.model.native.kind,
            "compiled_graphs": None if target.model.graphs is None else target.model.graphs.made,
            "device": str(target.model.device),
            "threads": torch.get_num_threads(),
            "max_new_tokens": recipe.max_new_tokens,
            "repeats": recipe.repeats,
            "seed": recipe.seed,
            "template": recipe.template and without_folders(recipe.template),
            "parse_special": recipe.parse_special,
            "draft_model": recipe.draft_model and without_folders(recipe.draft_model),
            "drafter": recipe.drafter and without_folders(recipe.drafter),
            "methods": list(map(without_folders, recipe.methods or ())),
        },
        "machine": {**provenance(argv), **bandwidth_bound(target.model)},
        **figures,
    }


def _certify(session: BenchmarkSession, records: Sequence[TurnRecord], peers: Sequence[str], figures: Figures) -> None:
    """Put a certificate beside each method's figures, and for peers how many questions they answered alike."""
    plain = {record.prompt: record.completion.ids for record in reversed(records) if record.method == BASELINE}

    def reference(prompt: tuple[int, ...]) -> TokenIds:
        if prompt not in plain:  # the second turn after a first answer that differs
            plain[prompt] = session.answers[BASELINE](list(prompt), session.max_new_tokens).ids
        return plain[prompt]

    own = [record for record in records if record.method not in peers]
    for name, certificate in certify(own, session.target.model, session.target.dtype, reference).items():
        figures["methods"][name]["lossless"] = certificate.to_json()
    for peer in peers:
        theirs = [record for record in records if record.method == peer]
        differing = {
            r.question_id for r in theirs if first_difference(reference(r.prompt), r.completion.ids) is not None
        }
        figures["peers"][peer]["prompts_equal"] = len({r.question_id for r in theirs} - differing)


def failed_methods(results: ResultsDocument) -> list[str]:
    """Methods whose output was not the target's own; plain decoding too, where it was not the model's own words."""
    failed = [name for name, figures in results["methods"].items() if figures["lossless"]["verdict"] == "FAILED"]
    reference = results.get("reference")
    if reference is not None and reference["verdict"] == "FAILED":
        failed.append(f"{BASELINE} ({told(reference)})")
    return failed
