"""Dialogues become texts to learn from: rendered, cut, filtered, split; what was left out is counted by reason.

A text is what the target would read in a conversation: the chat template's prompt before an answer, the answer, the
end-of-turn token, the template's words up to the next answer, and so on. Only answers bear a loss. Where a template
renders earlier turns otherwise than they were said, the text ends before the turn at which it does.
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
    """What the target is to answer."""

    id: str
    """Dialogue and turn: `dialogue/0`."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Corpus:
    """Texts to learn from and texts to measure on."""

    train: list[Sample]
    held_out: list[Sample]
    counts: Counter[str] = field(default_factory=Counter)
    """Why dialogues were left out or cut, and how many."""

    def summary(self) -> str:
        """One line for people."""
        tokens = sum(sample.answer_tokens for sample in self.train)
        left = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common()) or "nothing left out"
        return (
            f"corpus: {len(self.train):,} texts with {tokens:,} answer tokens, {len(self.held_out)} held out ({left})"
        )


@dataclass
class Reader:
    """Reads dialogues by a recipe, counting what it leaves out.

    Args:
        recipe: Filters and cuts.
        tokenizer: The target's.
        stop_ids: Tokens that end an answer.
        bench: Prompts that must not be learned.
    """

    recipe: CorpusRecipe
    tokenizer: Any
    stop_ids: frozenset[int]
    bench: BenchPrompts
    counts: Counter[str] = field(default_factory=Counter)

    def texts(self) -> Iterator[Sample]:
        """The dialogues with the corpus' own answers."""
        for dialogue in self._dialogues():
            if dialogue.prompt_ids:
                yield from self._given(dialogue)
                continue
            tokens: list[int] = []
            answer: list[bool] = []
            asked = 0
            for prompt, said in self._turns(dialogue):
                if prompt[: len(tokens)] != tokens:
                    if prompt[:asked] != tokens[:asked]:
                        self.counts["cut where the template rewrites earlier turns"] += 1
                        break
                    end = self._end_of_turn(prompt, asked)  # the template writes the answer in its own way: take that
                    tokens, answer = prompt[:end], answer[:asked] + [True] * (end - asked)
                answer += [False] * (len(prompt) - len(tokens))
                asked = len(prompt)
                reply, looped = self._reply(said)
                tokens = prompt + reply
                answer += [True] * len(reply)
                if looped:
                    break
            yield from self._kept(dialogue.id, tokens, answer)

    def prompts(self) -> Iterator[CorpusPrompt]:
        """The prompts before each answer, earlier answers the corpus' own."""
        for dialogue in self._dialogues():
            if dialogue.prompt_ids:
                yield CorpusPrompt(f"{dialogue.id}/0", dialogue.prompt_ids)
                continue
            for turn, (prompt, _) in enumerate(self._turns(dialogue)):
                yield CorpusPrompt(f"{dialogue.id}/{turn}", tuple(prompt))

    def answered(self, prompts: Iterable[CorpusPrompt], answers: Mapping[str, Sequence[int]]) -> Iterator[Sample]:
        """Prompts with the target's own answers.

        Raises:
            FalconError: A prompt has none.
        """
        for prompt in prompts:
            if prompt.id not in answers:
                raise FalconError(
                    f"the target's answer to {prompt.id} is missing: all processes must write into the same run "
                    "folder; go on with --resume"
                )
            yield from self._given(Dialogue(prompt.id, (), prompt.tokens, tuple(answers[prompt.id])))

    def _dialogues(self) -> Iterator[Dialogue]:
        """Dialogues that pass the filters on their words, those to skip left out, up to the limit."""
        taken, seen = -self.recipe.skip, set()
        for dialogue in read_dialogues(self.recipe):
            said = self._said(dialogue)
            reason = self._refused(dialogue, said)
            key = hashlib.sha256(repr(said).encode("utf-8", "surrogatepass")).digest()
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

    def _said(self, dialogue: Dialogue) -> list[str]:
        """What the user says."""
        if dialogue.prompt_ids:
            return self._spoken(dialogue)
        return [message["content"] for message in dialogue.messages if message["role"] == "user"]

    def _spoken(self, dialogue: Dialogue) -> list[str]:
        """The words between a prompt's special tokens, with and without the line that names the speaker.

        Raises:
            FalconError: The token ids are not this tokenizer's.
        """
        top, known = max(dialogue.prompt_ids + dialogue.response_ids), len(self.tokenizer)
        if top >= known:
            raise FalconError(
                f"dialogue {dialogue.id} has the token id {top}, the target's tokenizer only {known} tokens: give a "
                "corpus made with this target, or one of messages"
            )
        special = set(self.tokenizer.all_special_ids)
        runs = groupby(dialogue.prompt_ids, key=special.__contains__)
        texts = [self.tokenizer.decode(list(run)) for apart, run in runs if not apart]
        return texts + [text.partition("\n")[2] for text in texts]

    def _refused(self, dialogue: Dialogue, said: Sequence[str]) -> str | None:
        text = "".join(said)
        if not text.strip():
            return "without a user's word"
        if len(dialogue.prompt_ids) > self.recipe.max_prompt_tokens:
            return "with a prompt that is too long"
        if any(_HALF.search(message["content"]) for message in dialogue.messages):
            return "with broken characters"
        plain = sum(letter.isascii() for letter in text)
        if plain < self.recipe.ascii_share * len(text):
            return "not in ASCII"
        words = [*said, *(message["content"] for message in dialogue.messages)]
        if not any(re.search(self.recipe.match, text, re.IGNORECASE) for text in words):
            return "about something else"
        return "with a benchmark's prompt" if self.bench.match(said) else None

    def _turns(self, dialogue: Dialogue) -> Iterator[tuple[list[int], str]]:
        """(prompt's tokens, answer's words) of each turn that can be used, the first ones of the dialogue."""
        messages = _from_the_user_on(dialogue.messages)
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
                raise  # not this dialogue's fault: there is no template, or it takes no user
            self.counts["cut where the template takes no more"] += 1
            return None
        if len(prompt) > self.recipe.max_prompt_tokens:
            self.counts["cut at a prompt that is too long"] += 1
            return None
        return prompt

    def _reply(self, said: str) -> tuple[list[int], bool]:
        """An answer's tokens with the end of turn, and whether it was cut where it begins to loop."""
        ids: list[int] = self.tokenizer(said, add_special_tokens=False)["input_ids"]
        return self._unlooped([*ids, *self._end()])

    def _unlooped(self, ids: list[int]) -> tuple[list[int], bool]:
        start = loop_start(ids) if self.recipe.drop_loops else None
        if start is None:
            return ids, False
        self.counts["cut where the answer loops"] += 1
        return ids[:start], True

    def _end_of_turn(self, prompt: Sequence[int], begin: int) -> int:
        """The place after the first stop token from `begin` on; `begin` where there is none."""
        ends = (place + 1 for place in range(begin, len(prompt)) if prompt[place] in self.stop_ids)
        return next(ends, begin)

    def _end(self) -> list[int]:
        own = self.tokenizer.eos_token_id
        return [own if own in self.stop_ids else min(self.stop_ids)] if self.stop_ids else []

    def _given(self, dialogue: Dialogue) -> Iterator[Sample]:
        """A prompt and an answer in token ids."""
        reply, _ = self._unlooped(list(dialogue.response_ids))
        answer = [False] * len(dialogue.prompt_ids) + [True] * len(reply)
        yield from self._kept(dialogue.id, [*dialogue.prompt_ids, *reply], answer)

    def _kept(self, name: str, tokens: list[int], answer: list[bool]) -> Iterator[Sample]:
        limit = self.recipe.max_tokens
        if len(tokens) > limit:
            self.counts["cut at max_tokens"] += 1
        sample = Sample(name, tuple(tokens[:limit]), tuple(answer[:limit]))
        if sample.answer_tokens < self.recipe.min_answer_tokens:
            self.counts["with too short an answer"] += 1
            return
        yield sample


def split(samples: Sequence[Sample], recipe: CorpusRecipe, counts: Counter[str]) -> Corpus:
    """Hold some dialogues out, chosen by a hash of their names: the same ones whatever the order of the corpus.

    Raises:
        FalconError: Nothing is left to train on.
    """
    names = sorted(
        {_dialogue_of(sample) for sample in samples}, key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    if len(names) <= recipe.held_out:
        why = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "its sources are empty"
        raise FalconError(
            f"the corpus has {len(names)} usable dialogues, of which corpus.held_out takes {recipe.held_out}: nothing "
            f"is left to train on ({why})"
        )
    apart = set(names[: recipe.held_out])
    return Corpus(
        train=[sample for sample in samples if _dialogue_of(sample) not in apart],
        held_out=[sample for sample in samples if _dialogue_of(sample) in apart],
        counts=counts,
    )


def _dialogue_of(sample: Sample) -> str:
    """The dialogue's name without the turn's number."""
    return sample.id.rpartition("/")[0] or sample.id


def _from_the_user_on(messages: Sequence[Message]) -> list[Message]:
    """The messages from the first that is not the assistant's; answers without white space at their ends.

    Else a text would hold the answer as it is learned, and the next prompt the answer as it was recorded.
    """
    first = next((place for place, message in enumerate(messages) if message["role"] != "assistant"), len(messages))
    return [
        {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
        for message in messages[first:]
    ]


def _asks(message: Message) -> bool:
    """Whether it is the user's, and says something."""
    return message["role"] == "user" and bool(message["content"].strip())
