"""Prepares the texts of a recipe: reads the corpus and, with `answers: target`, lets the target answer its prompts."""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from accelerate import Accelerator

from falcon_cli.console import duration, progress, say
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.distill.corpus.answers import greedy_answers, read_answers, target_answers
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.kept import Kept, keep, kept
from falcon_cli.distill.corpus.reader import CorpusReader
from falcon_cli.distill.corpus.sample import CorpusPrompt, Sample
from falcon_cli.distill.corpus.split import Corpus, split
from falcon_cli.distill.folder import DistillFolder
from falcon_cli.distill.kernel_copy import KernelCopy
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import LoadedTarget

_TRIAL_TOKENS = 8


def prepare(
    recipe: DistillRecipe, reading: KernelCopy, folder: DistillFolder | None, accelerator: Accelerator
) -> Corpus:
    """The texts to train and to evaluate on; without a folder (a dry run) the target answers nothing.

    Raises:
        FalconError: The corpus cannot be read, or no usable dialogue is left.
    """
    target = reading.original
    date = None if folder is None else folder.date
    chat = ChatTemplate.of(recipe.corpus, target.tokenizer, date)
    bench, rows = BenchPrompts.of(recipe.corpus.exclude), target.model.embedding_rows
    reader = CorpusReader(recipe.corpus, chat, target.stop_ids, bench, rows)
    if recipe.answers == "dataset" or folder is None:
        texts = _rendered(reader, Sample.from_json, reader.texts(), folder, accelerator)
        corpus = split(texts, recipe.corpus, reader.tally)
        if recipe.answers == "target":
            _estimate_answers(recipe, _answering(recipe, reading).target, corpus)
    else:
        prompts = _rendered(reader, CorpusPrompt.from_json, reader.prompts(), folder, accelerator)
        if len(read_answers(folder.answers, prompts)) < len(prompts):
            world, rank = accelerator.num_processes, accelerator.process_index
            answering = _answering(recipe, reading)
            target_answers(answering.target, prompts, recipe.generation, folder.answers, rank, world)
            if answering is not reading:
                answering.release()  # before what reads is loaded
        accelerator.wait_for_everyone()
        answers = read_answers(folder.answers, prompts)
        corpus = split(list(reader.answered(prompts, answers)), recipe.corpus, reader.tally)
    for line in corpus.lines():
        say(line)
    return corpus


def _answering(recipe: DistillRecipe, reading: KernelCopy) -> KernelCopy:
    """What answers: what reads texts too, or a copy with quantised weights."""
    quantize = recipe.generation.quantize
    return reading if quantize == "none" else KernelCopy(reading.recipe, reading.original, quantize)


def _rendered(
    reader: CorpusReader,
    from_json: Callable[[dict[str, Any]], Kept],
    texts: Iterator[Kept],
    folder: DistillFolder | None,
    accelerator: Accelerator,
) -> list[Kept]:
    """All texts, as the run's folder keeps them or read now; of several processes the first reads and keeps them."""
    if folder is None:
        return _counted(reader, texts)
    if accelerator.is_main_process and kept(folder.texts, from_json) is None:
        read = _counted(reader, texts)  # which also counts
        keep(folder.texts, reader.tally, read)
    accelerator.wait_for_everyone()
    found = kept(folder.texts, from_json)
    if found is None:
        raise FalconError(f"{folder.texts} is missing: all processes must write into the same run folder")
    reader.tally, read = found
    return read


def _counted(reader: CorpusReader, texts: Iterator[Kept]) -> list[Kept]:
    """All texts, read with a progress bar."""
    read = []
    with progress("reading dialogues", reader.recipe.limit, "texts") as bar:
        for text in texts:
            read.append(text)
            bar.advance()
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
