"""`falcon generate` from requests to answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from falcon_cli.console import warn
from falcon_cli.core import Drafter
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.decode.loop import extend, speculate
from falcon_cli.decode.stats import Completion
from falcon_cli.decode.stop import Stop
from falcon_cli.decode.totals import counted
from falcon_cli.drafters.adaptive.drafter import Adaptive
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.generate.requests import Request, prompt_ids
from falcon_cli.generate.text import Piece, TextStream
from falcon_cli.methods.defaults import DEFAULT_METHOD
from falcon_cli.methods.grammar import choose, load_context
from falcon_cli.recipe.provenance import now
from falcon_cli.recipe.schema import GenerateRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.reference.hold import ReferenceEntry, hold

Listener = Callable[[Piece], None]
"""Hears the text of an answer as it comes."""


@dataclass(frozen=True)
class Answer:
    """One request's answer."""

    request: Request
    text: str
    completion: Completion
    reference: ReferenceEntry | None = None
    """What came of holding it against `transformers.generate`; None where it was not."""
    chosen: Mapping[str, int] | None = None
    """Adaptive drafting: cycles by what was drafted (none, copy, tree)."""

    def to_json(self) -> dict[str, Any]:
        """The request's own fields, then text, token ids and statistics, and the reference where it was asked for."""
        return {
            **self.request.fields,
            "text": self.text,
            "token_ids": self.completion.ids,
            "finish": self.completion.finish,
            "stats": statistics(self.completion) | ({} if self.chosen is None else {"drafts": dict(self.chosen)}),
            **({} if self.reference is None else {"reference": self.reference}),
        }


class Generator:
    """A loaded target with one method, answering requests.

    Args:
        recipe: Target, method and limits; everything is checked before the target is loaded.
        check: The request whose answer is held against `transformers.generate`; it must be the first one answered.
    """

    def __init__(self, recipe: GenerateRecipe, check: Request | None = None):
        choice = choose(recipe.method or DEFAULT_METHOD)
        choice.check(recipe)
        self.recipe = recipe
        chat_of = partial(ChatTemplate.of, recipe, date=now())
        prompt_of = None if check is None else lambda tokenizer: prompt_ids(check, recipe, chat_of(tokenizer))
        context = load_context(recipe, [choice], prompt_of)
        self._check = check
        self.target: LoadedTarget = context.target
        self._chat = chat_of(self.target.tokenizer)
        self.drafter: Drafter = choice.build(context)

    def answers(self, requests: Iterable[Request], listen: Listener = lambda piece: None) -> Iterator[Answer]:
        """Answer requests one by one, in order.

        Raises:
            FalconError: A prompt does not fit the context or has tokens that the model cannot read; raised before it
                is read.
        """
        for request in requests:
            try:
                prompt = self._prompt(request)
            except FalconError as error:
                if not self.recipe.keep_going or isinstance(error, UsageError):
                    raise
                warn(f"skipped: {error}")
                continue
            answer = self._answer(request, prompt, listen)
            if request is self._check:
                answer = replace(answer, reference=hold(self.target, answer.completion.ids, request.question.id))
            yield answer

    def _prompt(self, request: Request) -> list[int]:
        """A request's token ids; what is wrong with them names the request's line."""
        try:
            prompt = prompt_ids(request, self.recipe, self._chat)
            self.target.check_ids(prompt)
            self.target.model.check_room(len(prompt), self.recipe.max_new_tokens)
        except FalconError as error:
            if request.place is None or isinstance(error, UsageError):
                raise
            raise FalconError(f"{request.place}: {error}") from error
        return prompt

    def _answer(self, request: Request, prompt: list[int], listen: Listener) -> Answer:
        recipe, tokenizer = self.recipe, self.target.tokenizer
        stop = Stop(self.target.stop_ids, recipe.max_new_tokens, recipe.stop, tokenizer.decode)
        stream, completion, said = TextStream(tokenizer, recipe.stop), Completion(len(prompt)), []
        for step in speculate(self.target.model, self.drafter, prompt, stop):
            extend(completion, step)
            for piece in stream.push(step.tokens, drafted=len(step.tokens) - 1):
                said.append(piece.text)
                listen(piece)
        for piece in stream.finish():
            said.append(piece.text)
            listen(piece)
        completion.finish = stop.finish or "length"
        chosen = self.drafter.chosen if isinstance(self.drafter, Adaptive) else None
        return Answer(request, "".join(said), completion, chosen=chosen)


def statistics(completion: Completion) -> dict[str, Any]:
    """Counts, seconds and rates of one answer (τ excludes the bonus token, tokens per cycle includes it)."""
    totals = counted(completion)
    return {
        "prompt_tokens": completion.prompt_tokens,
        "new_tokens": len(completion.ids),
        "prefill_seconds": round(totals.prefill_seconds, 6),
        "decode_seconds": round(totals.decode_seconds, 6),
        "tokens_per_second": round(totals.tokens_per_second, 3) if totals.decode_seconds else None,
        "cycles": totals.cycles,
        "tokens_per_cycle": round(totals.tokens_per_cycle, 4) if totals.cycles else None,
        "accepted_length": round(totals.accepted_length, 4) if totals.cycles else None,
        "acceptance_rate": round(totals.acceptance_rate, 4) if totals.tokens else None,
    }
