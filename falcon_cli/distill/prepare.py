"""Prepares the texts of a recipe: reads the corpus and, with `answers: target`, lets the target answer its prompts."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TypeVar

from accelerate import Accelerator

from falcon_cli.console import duration, progress, say, warn
from falcon_cli.distill.corpus.answers import greedy_answers, read_answers, target_answers
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.reader import CorpusPrompt, CorpusReader
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.split import Corpus, split
from falcon_cli.distill.folder import DistillFolder
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import LoadedTarget

T = TypeVar("T", Sample, CorpusPrompt)

_TRIAL_TOKENS = 8


def prepare(
    recipe: DistillRecipe, target: LoadedTarget, folder: DistillFolder | None, accelerator: Accelerator
) -> Corpus:
    """The texts to train and to evaluate on; without a folder (a dry run) the target answers nothing.

    Raises:
        FalconError: The corpus cannot be read, or no usable dialogue is left.
    """
    reader = CorpusReader(recipe.corpus, target.tokenizer, target.stop_ids, BenchPrompts.of(recipe.corpus.exclude))
    if recipe.answers == "dataset" or folder is None:
        corpus = split(_counted(reader.texts(), recipe, target), recipe.corpus, reader.counts)
        if recipe.answers == "target":
            _estimate_answers(recipe, target, corpus)
    else:
        prompts = _counted(reader.prompts(), recipe, target)
        world, rank = accelerator.num_processes, accelerator.process_index
        target_answers(target, prompts, recipe.generation, folder.answers, rank, world)
        accelerator.wait_for_everyone()
        answers = read_answers(folder.answers, prompts)
        corpus = split(list(reader.answered(prompts, answers)), recipe.corpus, reader.counts)
    say(corpus.summary())
    return corpus


def _counted(texts: Iterator[T], recipe: DistillRecipe, target: LoadedTarget) -> list[T]:
    """All texts that the target can read, with a progress bar; those with tokens of no embedding are told of."""
    read, refused, why = [], 0, ""
    with progress("reading dialogues", recipe.corpus.limit, "texts") as bar:
        for text in texts:
            bar.advance()
            try:
                target.check_ids(text.tokens)
                read.append(text)
            except FalconError as error:
                refused, why = refused + 1, str(error)
    if refused:
        warn(f"{refused} texts left out: {why}")
    return read


def _estimate_answers(recipe: DistillRecipe, target: LoadedTarget, corpus: Corpus) -> None:
    """Print how long the answers take at most, estimated by a short trial on the shortest prompts."""
    size, longest_answer = recipe.generation.batch_size, recipe.generation.max_new_tokens
    prompts = sorted((sample.tokens[: sample.answer.index(True)] for sample in corpus.train + corpus.held_out), key=len)
    batches = [prompts[begin : begin + size] for begin in range(0, len(prompts), size)]
    padded = [len(batch) * len(batch[-1]) for batch in batches]
    reading = _seconds(target, batches[0], 1)
    answering = max(0.0, _seconds(target, batches[0], 1 + _TRIAL_TOKENS) - reading) / _TRIAL_TOKENS
    hours = (reading * sum(padded) / padded[0] + answering * longest_answer * len(batches)) / 3600
    rate = len(prompts) * longest_answer / (3600 * hours)
    say(
        f"plan: {len(prompts):,} prompts to be answered at about {rate:,.0f} tokens/s: {duration(hours)} if every "
        "answer has the maximum length; the figures below assume the corpus' answers"
    )


def _seconds(target: LoadedTarget, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Seconds that a batch takes for answers of this many tokens."""
    began = perf_counter()
    for _ in greedy_answers(target, prompts, tokens, len(prompts)):
        pass
    return perf_counter() - began
