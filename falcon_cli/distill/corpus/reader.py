"""Turns dialogues into samples: filters, renders and cuts them, and counts what is left out by reason.

A sample is what the target would read in a conversation: the chat template's prompt before an answer, the answer, the
end-of-turn token, the template's text up to the next answer, and so on. Only answers bear a loss. If a template renders
an earlier turn differently from how it was read, the sample ends before that turn.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from falcon_cli.data.chat import render
from falcon_cli.data.loops import loop_start
from falcon_cli.data.prompts import Message
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.dialogues import Dialogue, read_dialogues
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe

_HALF = re.compile("[\ud800-\udfff]")
"""Half a character (a lone surrogate): no tokenizer takes it."""


@dataclass(frozen=True)
class CorpusPrompt:
    """A prompt for the target to answer."""

    id: str
    """Dialogue and turn: `dialogue/0`."""
    tokens: tuple[int, ...]


@dataclass
class CorpusReader:
    """Reads dialogues as a recipe asks, and counts what it leaves out.

    Args:
        recipe: Filters and cuts.
        tokenizer: The target's.
        stop_ids: Tokens that end an answer.
        bench: Prompts of benchmarks, which must not be trained on.
    """

    recipe: CorpusRecipe
    tokenizer: Any
    stop_ids: frozenset[int]
    bench: BenchPrompts
    counts: Counter[str] = field(default_factory=Counter)

    def texts(self) -> Iterator[Sample]:
        """The dialogues with the corpus' answers."""
        for dialogue in self._dialogues():
            if dialogue.prompt_ids:
                yield from self._from_ids(dialogue)
                continue
            tokens: list[int] = []
            answer: list[bool] = []
            asked = 0
            for prompt, text in self._turns(dialogue):
                if prompt[: len(tokens)] != tokens:
                    if prompt[:asked] != tokens[:asked]:
                        self.counts["cut where the template rewrites earlier turns"] += 1
                        break
                    end = self._end_of_turn(prompt, asked)  # the template renders the answer differently: use that
                    tokens, answer = prompt[:end], answer[:asked] + [True] * (end - asked)
                answer += [False] * (len(prompt) - len(tokens))
                asked = len(prompt)
                reply, looped = self._reply(text)
                tokens = prompt + reply
                answer += [True] * len(reply)
                if looped:
                    break
            yield from self._sample(dialogue.id, tokens, answer)

    def prompts(self) -> Iterator[CorpusPrompt]:
        """The prompt before each answer, with the corpus' earlier answers."""
        for dialogue in self._dialogues():
            if dialogue.prompt_ids:
                yield CorpusPrompt(f"{dialogue.id}/0", dialogue.prompt_ids)
                continue
            for turn, (prompt, _) in enumerate(self._turns(dialogue)):
                yield CorpusPrompt(f"{dialogue.id}/{turn}", tuple(prompt))

    def answered(self, prompts: Iterable[CorpusPrompt], answers: Mapping[str, Sequence[int]]) -> Iterator[Sample]:
        """Prompts with the target's answers.

        Raises:
            FalconError: A prompt has none.
        """
        for prompt in prompts:
            if prompt.id not in answers:
                raise FalconError(
                    f"the target's answer to {prompt.id} is missing: all processes must write into the same run "
                    "folder; go on with --resume"
                )
            yield from self._from_ids(Dialogue(prompt.id, (), prompt.tokens, tuple(answers[prompt.id])))

    def _dialogues(self) -> Iterator[Dialogue]:
        """Dialogues that pass the text filters, after those to skip, up to the limit."""
        taken, seen = -self.recipe.skip, set()
        for dialogue in read_dialogues(self.recipe):
            messages = self._user_messages(dialogue)
            reason = self._refusal(dialogue, messages)
            key = hashlib.sha256(repr(messages).encode("utf-8", "surrogatepass")).digest()
            if reason is None and key in seen:
                reason = "doubled"
            if reason is not None:
                self.counts[reason] += 1
                continue
            seen.add(key)
            taken += 1
            if taken <= 0:
                self.counts["skipped"] += 1
                continue
            yield dialogue
            if taken == self.recipe.limit:
                return

    def _user_messages(self, dialogue: Dialogue) -> list[str]:
        """The user's messages."""
        if dialogue.prompt_ids:
            return self._decoded(dialogue)
        return [message["content"] for message in dialogue.messages if message["role"] == "user"]

    def _decoded(self, dialogue: Dialogue) -> list[str]:
        """The text between a prompt's special tokens, with and without the line that names the speaker.

        Raises:
            FalconError: The token ids are not this tokenizer's.
        """
        largest, vocab_size = max(dialogue.prompt_ids + dialogue.response_ids), len(self.tokenizer)
        if largest >= vocab_size:
            raise FalconError(
                f"dialogue {dialogue.id} has the token id {largest}, the target's tokenizer only {vocab_size} tokens: "
                "give a corpus made with this target, or one of messages"
            )
        special = set(self.tokenizer.all_special_ids)
        runs = groupby(dialogue.prompt_ids, key=special.__contains__)
        texts = [self.tokenizer.decode(list(run)) for is_special, run in runs if not is_special]
        return texts + [text.partition("\n")[2] for text in texts]

    def _refusal(self, dialogue: Dialogue, user_messages: Sequence[str]) -> str | None:
        """Why the dialogue is left out; None if it is not."""
        text = "".join(user_messages)
        if not text.strip():
            return "without a user's word"
        if len(dialogue.prompt_ids) > self.recipe.max_prompt_tokens:
            return "with a prompt that is too long"
        if any(_HALF.search(message["content"]) for message in dialogue.messages):
            return "with broken characters"
        plain = sum(letter.isascii() for letter in text)
        if plain < self.recipe.ascii_share * len(text):
            return "not in ASCII"
        all_messages = [*user_messages, *(message["content"] for message in dialogue.messages)]
        if not any(re.search(self.recipe.match, text, re.IGNORECASE) for text in all_messages):
            return "about something else"
        return "with a benchmark's prompt" if self.bench.match(user_messages) else None

    def _turns(self, dialogue: Dialogue) -> Iterator[tuple[list[int], str]]:
        """(prompt's tokens, answer's text) of each turn, up to the first that cannot be used."""
        messages = _from_first_user(dialogue.messages)
        turns = 0
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = messages[:place]
            if not message["content"] or not before or not _asks(before[-1]):
                self.counts["cut at a turn without words"] += 1
                return
            prompt = self._render(before)
            if prompt is None:
                return
            yield prompt, message["content"]
            turns += 1
            if turns == self.recipe.turns:
                return

    def _render(self, messages: Sequence[Message]) -> list[int] | None:
        try:
            prompt = render(self.tokenizer, messages, self.recipe.template)
        except FalconError:
            if len(messages) == 1:
                raise  # the template is missing or takes no user message: no dialogue would do
            self.counts["cut where the template takes no more"] += 1
            return None
        if len(prompt) > self.recipe.max_prompt_tokens:
            self.counts["cut at a prompt that is too long"] += 1
            return None
        return prompt

    def _reply(self, text: str) -> tuple[list[int], bool]:
        """An answer's tokens with the end of turn, and whether it was cut where it begins to loop."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._unlooped([*ids, *self._end()])

    def _unlooped(self, ids: list[int]) -> tuple[list[int], bool]:
        start = loop_start(ids) if self.recipe.drop_loops else None
        if start is None:
            return ids, False
        self.counts["cut where the answer loops"] += 1
        return ids[:start], True

    def _end_of_turn(self, prompt: Sequence[int], begin: int) -> int:
        """The place after the first stop token from `begin` on; `begin` if there is none."""
        ends = (place + 1 for place in range(begin, len(prompt)) if prompt[place] in self.stop_ids)
        return next(ends, begin)

    def _end(self) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [eos if eos in self.stop_ids else min(self.stop_ids)] if self.stop_ids else []

    def _from_ids(self, dialogue: Dialogue) -> Iterator[Sample]:
        """A prompt and an answer in token ids."""
        reply, _ = self._unlooped(list(dialogue.response_ids))
        answer = [False] * len(dialogue.prompt_ids) + [True] * len(reply)
        yield from self._sample(dialogue.id, [*dialogue.prompt_ids, *reply], answer)

    def _sample(self, name: str, tokens: list[int], answer: list[bool]) -> Iterator[Sample]:
        limit = self.recipe.max_tokens
        if len(tokens) > limit:
            self.counts["cut at max_tokens"] += 1
        sample = Sample(name, tuple(tokens[:limit]), tuple(answer[:limit]))
        if sample.answer_tokens < self.recipe.min_answer_tokens:
            self.counts["with too short an answer"] += 1
            return
        yield sample


def _from_first_user(messages: Sequence[Message]) -> list[Message]:
    """The messages from the first that is not the assistant's, with white space stripped from answers.

    Otherwise a sample would contain the stripped answer, and the next prompt the recorded one.
    """
    first = next((place for place, message in enumerate(messages) if message["role"] != "assistant"), len(messages))
    return [
        {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
        for message in messages[first:]
    ]


def _asks(message: Message) -> bool:
    """Whether the message is the user's and not empty."""
    return message["role"] == "user" and bool(message["content"].strip())
