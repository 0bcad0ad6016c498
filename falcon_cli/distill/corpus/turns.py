"""Renders the turns of a dialogue as token ids, and says why one ends early."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from falcon_cli.data.chat import ChatTemplate
from falcon_cli.data.messages import Message, Messages
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe


@dataclass
class TurnReader:
    """Renders dialogues turn by turn.

    Args:
        recipe: Where dialogues are cut.
        chat: The target's chat template.
        stop_ids: Tokens that end an answer.
        rows: Of the model's embedding.
    """

    recipe: CorpusRecipe
    chat: ChatTemplate
    stop_ids: frozenset[int]
    rows: int

    def end_of_turn(self, prompt: Sequence[int], begin: int) -> int:
        """The place after the first stop token from `begin` on; `begin` if there is none."""
        ends = (place + 1 for place in range(begin, len(prompt)) if prompt[place] in self.stop_ids)
        return next(ends, begin)

    def turns(self, talk: Messages, cuts: list[str]) -> Iterator[tuple[list[int], list[int]]]:
        """Token ids of (prompt, answer) of each turn, up to the first that cannot be used.

        Args:
            talk: The dialogue.
            cuts: Takes in why the dialogue is cut, or begins late.
        """
        messages, tools = self._from_first_question(talk.messages, cuts), talk.tools
        if tools and not self.chat.knows_tools:
            cuts.append("without its tools, which the template does not know")
        turns = 0
        for place, message in enumerate(messages):
            before = messages[:place]
            if reason := self._unusable(message, before):
                cuts.append(reason)
                return
            if message["role"] != "assistant":
                continue
            turn = self._turn(messages[: place + 1], tools, cuts)
            if turn is None:
                return
            yield turn
            turns += 1
            if turns == self.recipe.turns:
                if place + 1 < len(messages):
                    cuts.append("after corpus.turns answers")
                return
        if talk.ended is not None:
            cuts.append(f"at {talk.ended}")
        elif turns and messages[-1]["role"] != "assistant":
            cuts.append("at a question without an answer")

    def unreadable(self, ids: Sequence[int]) -> str | None:
        """Which of these tokens the model's embedding has no row of; None where it has all."""
        beyond = next((token for token in ids if token >= self.rows), None)
        if beyond is None:
            return None
        return f"at the token {self.chat.tokenizer.convert_ids_to_tokens(beyond)}, which the model cannot read"

    def _turn(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], cuts: list[str]
    ) -> tuple[list[int], list[int]] | None:
        """The last message, an answer, and the prompt before it; None where either cannot be taken."""
        prompt = self._render(messages[:-1], tools, cuts)
        reply = None if prompt is None else self._reply(prompt, messages, tools, cuts)
        if prompt is None or reply is None:
            return None
        if unreadable := self.unreadable([*prompt, *reply]):
            cuts.append(unreadable)
            return None
        return prompt, reply

    def _unusable(self, message: Message, before: Sequence[Message]) -> str | None:
        """Why a dialogue ends before this message; None where it goes on."""
        if unknown := self.chat.unknown(message):
            return f"at {unknown}, which the template does not know"
        if message["role"] != "assistant":
            return None
        has_words = bool(message["content"] or message.get("tool_calls"))
        return None if has_words and before and _asks(before[-1]) else "at a turn without words"

    def _from_first_question(self, messages: Sequence[Message], cuts: list[str]) -> list[Message]:
        """The messages from the first that is not the assistant's, with white space stripped from answers.

        Otherwise a sample would contain the stripped answer, and the next prompt the recorded one.
        """
        first = next((place for place, message in enumerate(messages) if message["role"] != "assistant"), len(messages))
        if first:
            cuts.append("before its first question")
        return [
            {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
            for message in messages[first:]
        ]

    def _render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], cuts: list[str]
    ) -> list[int] | None:
        try:
            prompt = self.chat.prompt(messages, tools)
        except FalconError:
            if len(messages) == 1:
                raise  # the template is missing or takes no user message: no dialogue would do
            cuts.append("where the template takes no more")
            return None
        if len(prompt) > self.recipe.max_prompt_tokens:
            cuts.append("at a prompt that is too long")
            return None
        return prompt

    def _reply(
        self, prompt: list[int], messages: Sequence[Message], tools: Sequence[dict[str, Any]], cuts: list[str]
    ) -> list[int] | None:
        """The tokens of the last message, an answer to the prompt, with the end of turn that the template writes."""
        with suppress(FalconError):
            whole = self.chat.dialogue(messages, tools)
            end = self.end_of_turn(whole, len(prompt))
            if whole[: len(prompt)] == prompt and end > len(prompt):
                return whole[len(prompt) : end]
        if messages[-1].get("tool_calls"):
            cuts.append("at a function call, which the template rewrites")
            return None
        # The template writes an answer otherwise once it is given, or no stop token behind it.
        return [*self.chat.encode(messages[-1]["content"]), *self._ending]

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


def _asks(message: Message) -> bool:
    """Whether the message asks the assistant: a user's words, or what a function has returned."""
    return message["role"] == "tool" or (message["role"] == "user" and bool(message["content"].strip()))
