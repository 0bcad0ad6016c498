"""The target's greedy answers to the corpus' prompts: computed in batches, written as each one ends.

    {"id": "abc/0", "prompt_ids": [...], "response_ids": [...]}       with the end-of-turn token, if it was reached

A kill loses the unfinished answers; a resumed run computes them again. On exact kernels an answer is the same whatever
shares the batch. On torch's operators rows are padded; a class that reads a padded batch otherwise than each row by
itself, which two short prompts show, answers one prompt after the other by plain decoding.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter

from falcon_cli.console import progress, say
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.padded import padded_answers, reads_padded, room
from falcon_cli.distill.corpus.sample import CorpusPrompt
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.recipe.distill import AnswersRecipe
from falcon_cli.sources import append_line, disk_errors, json_lines
from falcon_cli.target.batch import TextBatch, suits_batch
from falcon_cli.target.load import LoadedTarget


def target_answers(
    target: LoadedTarget,
    prompts: Sequence[CorpusPrompt],
    recipe: AnswersRecipe,
    path: Path,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Answer this process's share of the prompts that no file answers yet.

    Args:
        target: The model that answers.
        prompts: All prompts, the same in every process.
        recipe: Length and batch size.
        path: JSON lines file; process n > 0 writes to `answers.n.jsonl`.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        FalconError: The disk is full.
    """
    answered = read_answers(path, prompts)
    todo = [prompt for prompt in prompts[rank::world] if prompt.id not in answered]
    if not todo:
        return
    todo.sort(key=lambda prompt: len(prompt.tokens))
    file = path if rank == 0 else path.with_suffix(f".{rank}.jsonl")
    began, tokens = perf_counter(), 0
    answers = greedy_answers(target, [prompt.tokens for prompt in todo], recipe.max_new_tokens, recipe.batch_size)
    with progress("answering", len(todo), "prompts") as bar, disk_errors(path.parent):
        for number, reply in answers:
            prompt = todo[number]
            append_line(file, json.dumps({"id": prompt.id, "prompt_ids": list(prompt.tokens), "response_ids": reply}))
            tokens += len(reply)
            bar.advance()
            bar.update(note=f"{tokens / (perf_counter() - began):,.0f} tokens/s")
    seconds = perf_counter() - began
    say(f"answers: {tokens:,} tokens in {seconds / 60:.1f} min ({tokens / seconds:,.0f} tokens/s)")


def read_answers(path: Path, prompts: Iterable[CorpusPrompt]) -> dict[str, tuple[int, ...]]:
    """Answers to exactly these prompts, from the files of all processes; an incomplete line is left out."""
    asked = {prompt.id: prompt.tokens for prompt in prompts}
    answers: dict[str, tuple[int, ...]] = {}
    for file in [path, *sorted(path.parent.glob(f"{path.stem}.*.jsonl"))]:
        for record in json_lines(file):
            try:
                name, prompt, reply = record["id"], tuple(record["prompt_ids"]), tuple(record["response_ids"])
            except (KeyError, TypeError):
                continue
            if asked.get(name) == prompt:
                answers[name] = reply
    return answers


def greedy_answers(
    target: LoadedTarget, prompts: Sequence[Sequence[int]], max_new_tokens: int, rows: int
) -> Iterator[tuple[int, list[int]]]:
    """The target's greedy answers in the order in which they end, each with its prompt's number.

    Args:
        target: The model that answers.
        prompts: Token ids; ascending lengths need the least padding.
        max_new_tokens: An answer ends here, or after its first stop token, or with the context: a prompt that fills the
            context has an empty one.
        rows: Prompts answered at the same time.
    """
    has_room = [number for number, prompt in enumerate(prompts) if room(target, prompt, max_new_tokens) > 0]
    yield from ((number, []) for number in sorted(set(range(len(prompts))) - set(has_room)))
    asked = [prompts[number] for number in has_room]
    if suits_batch(target.model):
        answers = _together(target, asked, max_new_tokens, rows)
    elif reads_padded(target):
        answers = padded_answers(target, asked, max_new_tokens, rows)
    else:
        answers = _one_by_one(target, asked, max_new_tokens)
    for place, reply in answers:
        yield has_room[place], reply


def _together(
    target: LoadedTarget, prompts: Sequence[Sequence[int]], max_new_tokens: int, rows: int
) -> Iterator[tuple[int, list[int]]]:
    """Answers on exact kernels: a prompt joins as soon as another answer has ended."""
    batch, waiting = TextBatch(target.model), iter(enumerate(prompts))
    replies: dict[int, list[int]] = {}
    while True:
        for number, prompt in islice(waiting, rows - len(batch)):
            batch.add(number, prompt, room(target, prompt, max_new_tokens))
            replies[number] = []
        if not replies:
            return
        for number, token in batch.step():
            reply = replies[number]
            reply.append(token)
            if len(reply) >= room(target, prompts[number], max_new_tokens) or token in target.stop_ids:
                batch.drop(number)
                yield number, replies.pop(number)


def _one_by_one(
    target: LoadedTarget, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> Iterator[tuple[int, list[int]]]:
    """Answers by plain decoding, one after the other."""
    plain = Autoregressive(target.model.device)
    for number, prompt in enumerate(prompts):
        stop = Stop(target.stop_ids, room(target, prompt, max_new_tokens))
        yield number, complete(target.model, plain, list(prompt), stop).ids
