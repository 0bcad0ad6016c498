"""Turns dialogues into samples: filters, renders and cuts them, and counts what is left out by reason.

A sample is what the target would read in a conversation: the chat template's prompt before an answer, the answer, the
end-of-turn token, the template's text up to the next answer, and so on. Only answers bear a loss, a call of a function
among them. If a template renders an earlier turn differently from how it was read, the sample ends before that turn.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.loops import loop_start
from falcon_cli.data.messages import Messages
from falcon_cli.distill.corpus.contamination import BenchPrompts
from falcon_cli.distill.corpus.dialogues import Dialogue, read_dialogues
from falcon_cli.distill.corpus.sample import CorpusPrompt, Sample
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.distill.corpus.turns import TurnReader
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe

_HALF = re.compile("[\ud800-\udfff]")
"""Half a character (a lone surrogate): no tokenizer takes it."""


@dataclass
class CorpusReader:
    """Reads dialogues as a recipe asks, and counts what it leaves out.

    Args:
        recipe: Filters and cuts.
        chat: The target's chat template.
        stop_ids: Tokens that end an answer.
        bench: Prompts of benchmarks, which must not be trained on.
        rows: Of the model's embedding: it cannot read the tokens of a tokenizer that lie beyond.
    """

    recipe: CorpusRecipe
    chat: ChatTemplate
    stop_ids: frozenset[int]
    bench: BenchPrompts
    rows: int = sys.maxsize
    tally: Tally = field(default_factory=Tally)
    _cuts: list[str] = field(default_factory=list)
    """Why the dialogue at hand is cut."""

    @cached_property
    def _turns(self) -> TurnReader:
        return TurnReader(self.recipe, self.chat, self.stop_ids, self.rows)

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
            turns = self._turns.turns(dialogue.talk, self._cuts)
            asked = [dialogue.prompt_ids] if dialogue.prompt_ids else [prompt for prompt, _ in turns]
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
            return "without a user's word" if dialogue.talk.ended is None else f"at {dialogue.talk.ended}"
        if unreadable := self._turns.unreadable(dialogue.prompt_ids + dialogue.response_ids):
            return unreadable
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
        for prompt, reply in self._turns.turns(dialogue.talk, self._cuts):
            if prompt[: len(tokens)] != tokens:
                if prompt[:asked] != tokens[:asked]:
                    self._cuts.append("where the template rewrites earlier turns")
                    break
                end = self._turns.end_of_turn(prompt, asked)  # the template renders the answer differently: use that
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

    def _unlooped(self, ids: list[int]) -> tuple[list[int], bool]:
        start = loop_start(ids) if self.recipe.drop_loops else None
        if start is None:
            return ids, False
        self._cuts.append("where the answer loops")
        return ids[:start], True

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
            self._cuts.append("with too short an answer")
            return
        yield sample
