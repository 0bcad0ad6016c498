"""Turns dialogues into samples: filters, renders and cuts them, and counts what is left out by reason.

A sample is what the target would read in a conversation: the chat template's prompt before an answer, the answer, the
end-of-turn token, the template's text up to the next answer, and so on. Only answers bear a loss, a call of a function
among them. If a template renders an earlier turn differently from how it was read, the sample ends before that turn.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.loops import loop_start
from falcon_cli.data.messages import Message, Messages
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.dialogues import Dialogue, read_dialogues
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.tally import Tally
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

    def to_json(self) -> dict[str, Any]:
        """The prompt as JSON types."""
        return {"id": self.id, "tokens": self.tokens}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "CorpusPrompt":
        """Undo `to_json`; KeyError, TypeError or ValueError where it is something else."""
        return cls(entry["id"], tuple(entry["tokens"]))


@dataclass
class CorpusReader:
    """Reads dialogues as a recipe asks, and counts what it leaves out.

    Args:
        recipe: Filters and cuts.
        chat: The target's chat template.
        stop_ids: Tokens that end an answer.
        bench: Prompts of benchmarks, which must not be trained on.
    """

    recipe: CorpusRecipe
    chat: ChatTemplate
    stop_ids: frozenset[int]
    bench: BenchPrompts
    tally: Tally = field(default_factory=Tally)
    _cuts: list[str] = field(default_factory=list)
    """Why the dialogue at hand is cut."""

    def texts(self) -> Iterator[Sample]:
        """The dialogues with the corpus' answers."""
        for dialogue in self._dialogues():
            self._cuts = []
            texts = list(self._from_ids(dialogue) if dialogue.prompt_ids else self._from_turns(dialogue))
            self.tally.count(len(texts), self._cuts)
            yield from texts

    def prompts(self) -> Iterator[CorpusPrompt]:
        """The prompt before each answer, with the corpus' earlier answers."""
        for dialogue in self._dialogues():
            self._cuts = []
            asked = [dialogue.prompt_ids] if dialogue.prompt_ids else [turn[0] for turn in self._turns(dialogue)]
            self.tally.count(len(asked), self._cuts)
            for turn, prompt in enumerate(asked):
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
            self._cuts = []
            yield from self._from_ids(Dialogue(prompt.id, Messages(()), prompt.tokens, tuple(answers[prompt.id])))
            self.tally.answers.update(self._cuts)

    def _dialogues(self) -> Iterator[Dialogue]:
        """Dialogues that pass the text filters, after those to skip, up to the limit."""
        taken, seen = -self.recipe.skip, set()
        for dialogue in read_dialogues(self.recipe):
            messages = self._user_messages(dialogue)
            reason = self._refusal(dialogue, messages)
            key = hashlib.sha256(repr(messages).encode("utf-8", "surrogatepass")).digest()
            if reason is None and key in seen:
                reason = "doubled"
            self.tally.read += 1
            if reason is None:
                seen.add(key)
                taken += 1
                reason = "skipped" if taken <= 0 else None
            if reason is not None:
                self.tally.left_out[reason] += 1
                continue
            yield dialogue
            if taken == self.recipe.limit:
                return

    def _user_messages(self, dialogue: Dialogue) -> list[str]:
        """The user's messages."""
        if dialogue.prompt_ids:
            return self._decoded(dialogue)
        return [message["content"] for message in dialogue.talk.messages if message["role"] == "user"]

    def _decoded(self, dialogue: Dialogue) -> list[str]:
        """The text between a prompt's special tokens, with and without the line that names the speaker.

        Raises:
            FalconError: The token ids are not this tokenizer's.
        """
        largest, vocab_size = max(dialogue.prompt_ids + dialogue.response_ids), len(self.chat.tokenizer)
        if largest >= vocab_size:
            raise FalconError(
                f"dialogue {dialogue.id} has the token id {largest}, the target's tokenizer only {vocab_size} tokens: "
                "give a corpus made with this target, or one of messages"
            )
        special = set(self.chat.tokenizer.all_special_ids)
        runs = groupby(dialogue.prompt_ids, key=special.__contains__)
        texts = [str(self.chat.tokenizer.decode(list(run))) for is_special, run in runs if not is_special]
        return texts + [text.partition("\n")[2] for text in texts]

    def _refusal(self, dialogue: Dialogue, user_messages: Sequence[str]) -> str | None:
        """Why the dialogue is left out; None if it is not."""
        text = "".join(user_messages)
        if not text.strip():
            return "without a user's word"
        if len(dialogue.prompt_ids) > self.recipe.max_prompt_tokens:
            return "with a prompt that is too long"
        if _HALF.search(json.dumps(dialogue.talk.messages, ensure_ascii=False)):
            return "with broken characters"
        plain = sum(letter.isascii() for letter in text)
        if plain < self.recipe.ascii_share * len(text):
            return "not in ASCII"
        all_messages = [*user_messages, *(message["content"] for message in dialogue.talk.messages)]
        if not any(re.search(self.recipe.match, text, re.IGNORECASE) for text in all_messages):
            return "about something else"
        return "with a benchmark's prompt" if self.bench.match(user_messages) else None

    def _from_turns(self, dialogue: Dialogue) -> Iterator[Sample]:
        """All turns of a dialogue as one text."""
        tokens: list[int] = []
        answer: list[bool] = []
        asked = 0
        for prompt, reply in self._turns(dialogue):
            if prompt[: len(tokens)] != tokens:
                if prompt[:asked] != tokens[:asked]:
                    self._cuts.append("where the template rewrites earlier turns")
                    break
                end = self._end_of_turn(prompt, asked)  # the template renders the answer differently: use that
                tokens, answer = prompt[:end], answer[:asked] + [True] * (end - asked)
            answer += [False] * (len(prompt) - len(tokens))
            asked = len(prompt)
            said, looped = self._unlooped(reply)
            tokens = prompt + said
            answer += [True] * len(said)
            if looped:
                break
        if tokens:
            yield from self._sample(dialogue.id, tokens, answer)

    def _turns(self, dialogue: Dialogue) -> Iterator[tuple[list[int], list[int]]]:
        """Token ids of (prompt, answer) of each turn, up to the first that cannot be used."""
        messages, tools = self._from_first_question(dialogue.talk.messages), dialogue.talk.tools
        if tools and not self.chat.knows_tools:
            self._cuts.append("without its tools, which the template does not know")
        turns = 0
        for place, message in enumerate(messages):
            if unknown := self.chat.unknown(message):
                self._cuts.append(f"at {unknown}, which the template does not know")
                return
            if message["role"] != "assistant":
                continue
            before = messages[:place]
            if not (message["content"] or message.get("tool_calls")) or not before or not _asks(before[-1]):
                self._cuts.append("at a turn without words")
                return
            prompt = self._render(before, tools)
            reply = None if prompt is None else self._reply(prompt, messages[: place + 1], tools)
            if prompt is None or reply is None:
                return
            yield prompt, reply
            turns += 1
            if turns == self.recipe.turns:
                return
        if dialogue.talk.ended is not None:
            self._cuts.append(f"at {dialogue.talk.ended}")

    def _from_first_question(self, messages: Sequence[Message]) -> list[Message]:
        """The messages from the first that is not the assistant's, with white space stripped from answers.

        Otherwise a sample would contain the stripped answer, and the next prompt the recorded one.
        """
        first = next((place for place, message in enumerate(messages) if message["role"] != "assistant"), len(messages))
        if first:
            self._cuts.append("before its first question")
        return [
            {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
            for message in messages[first:]
        ]

    def _render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int] | None:
        try:
            prompt = self.chat.prompt(messages, tools)
        except FalconError:
            if len(messages) == 1:
                raise  # the template is missing or takes no user message: no dialogue would do
            self._cuts.append("where the template takes no more")
            return None
        if len(prompt) > self.recipe.max_prompt_tokens:
            self._cuts.append("at a prompt that is too long")
            return None
        return prompt

    def _reply(
        self, prompt: list[int], messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> list[int] | None:
        """The tokens of the last message, an answer to the prompt, with the end of turn that the template writes."""
        with suppress(FalconError):
            whole = self.chat.dialogue(messages, tools)
            end = self._end_of_turn(whole, len(prompt))
            if whole[: len(prompt)] == prompt and end > len(prompt):
                return whole[len(prompt) : end]
        if messages[-1].get("tool_calls"):
            self._cuts.append("at a function call, which the template rewrites")
            return None
        # The template writes an answer otherwise once it is given, or no stop token behind it.
        return [*self.chat.encode(messages[-1]["content"]), *self._ending]

    def _unlooped(self, ids: list[int]) -> tuple[list[int], bool]:
        start = loop_start(ids) if self.recipe.drop_loops else None
        if start is None:
            return ids, False
        self._cuts.append("where the answer loops")
        return ids[:start], True

    def _end_of_turn(self, prompt: Sequence[int], begin: int) -> int:
        """The place after the first stop token from `begin` on; `begin` if there is none."""
        ends = (place + 1 for place in range(begin, len(prompt)) if prompt[place] in self.stop_ids)
        return next(ends, begin)

    @cached_property
    def _ending(self) -> list[int]:
        """What ends a turn: the template's first stop token behind an answer, or the tokenizer's end of text."""
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        with suppress(FalconError):
            written = [token for token in self.chat.dialogue(turn) if token in self.stop_ids]
            asked = [token for token in self.chat.prompt(turn[:1]) if token in self.stop_ids]
            if len(written) > len(asked):
                return [written[len(asked)]]
        eos = self.chat.tokenizer.eos_token_id
        return [eos if eos in self.stop_ids else min(self.stop_ids)] if self.stop_ids else []

    def _from_ids(self, dialogue: Dialogue) -> Iterator[Sample]:
        """A prompt and an answer in token ids."""
        reply, _ = self._unlooped(list(dialogue.response_ids))
        answer = [False] * len(dialogue.prompt_ids) + [True] * len(reply)
        yield from self._sample(dialogue.id, [*dialogue.prompt_ids, *reply], answer)

    def _sample(self, name: str, tokens: list[int], answer: list[bool]) -> Iterator[Sample]:
        limit = self.recipe.max_tokens
        if len(tokens) > limit:
            self._cuts.append("at max_tokens")
        sample = Sample(name, tuple(tokens[:limit]), tuple(answer[:limit]))
        if sample.answer_tokens < self.recipe.min_answer_tokens:
            self._cuts.insert(0, "with too short an answer")
            return
        yield sample


def _asks(message: Message) -> bool:
    """Whether the message asks the assistant: a user's words, or what a function has returned."""
    return message["role"] == "tool" or (message["role"] == "user" and bool(message["content"].strip()))
