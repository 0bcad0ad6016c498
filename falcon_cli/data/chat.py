"""A dialogue becomes the token ids its target was trained to read.

Control tokens such as `<|im_end|>` come from the template alone: where a person's words contain one, they are encoded
as words. transformers does both steps: it marks the words before the template writes them, and encodes the text in
pieces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

from falcon_cli.console import say
from falcon_cli.data.messages import Message
from falcon_cli.data.templates import dated, given_text, text_for
from falcon_cli.errors import FalconError, first_line
from falcon_cli.recipe.provenance import now

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRIAL = "zebra"
"""A word of trial messages: a template that writes it has words for their role."""
_CALL: dict[str, Any] = {"type": "function", "id": "call00000", "function": {"name": _TRIAL, "arguments": {}}}


class TemplateSettings(Protocol):
    """What recipes say of the chat template."""

    @property
    def template(self) -> str | None:
        """A name or a Jinja file; None takes the tokenizer's own."""

    @property
    def parse_special(self) -> bool:
        """Whether control tokens in a message's words are control tokens."""


class ChatTemplate:
    """A target's chat template: dialogues in, token ids out.

    Args:
        tokenizer: the target's.
        template: a name in `templates.TEMPLATES` or a Jinja file; by default the tokenizer's own chat template, else
            one of ours when the tokenizer's name says Vicuna or LLaMA-2.
        parse_special: control tokens in a person's words are control tokens, as in the template's text alone.
        date: what a template that writes the date or the time is told; by default now. It stays the same, so that
            a prompt is the same whenever it is rendered.

    Raises:
        UsageError: `template` is neither a name nor a file.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        parse_special: bool = False,
        date: datetime | None = None,
    ):
        self.tokenizer, self._parse_special, self._date = tokenizer, parse_special, date or now()
        self._given = None if template is None else given_text(template)
        self._known: dict[str, bool] = {}

    @classmethod
    def of(
        cls, recipe: TemplateSettings, tokenizer: PreTrainedTokenizerBase, date: datetime | None = None
    ) -> ChatTemplate:
        """The template that a recipe asks for."""
        return cls(tokenizer, recipe.template, recipe.parse_special, date)

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The token ids of a dialogue, ready for the assistant to answer.

        Args:
            messages: the dialogue so far.
            tools: JSON schemas of the functions that the assistant may call.

        Raises:
            FalconError: no template is known for this tokenizer, or the template refuses the messages.
        """
        return self._ids(messages, tools, add_generation_prompt=True)

    def dialogue(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The token ids of a whole dialogue; see `prompt`."""
        return self._ids(messages, tools, add_generation_prompt=False)

    def encode(self, text: str) -> list[int]:
        """The token ids of the assistant's words alone.

        Raises:
            FalconError: the tokenizer cannot tell a word from a control token.
        """
        message = {"role": "assistant", "content": text}
        marked = self._marked(message)
        return self._encoded(marked["content"], marked != message)

    def unknown(self, message: Message) -> str | None:
        """What the template has no words for in a message, such as `the role tool`; None where it has."""
        if message.get("tool_calls"):
            return None if self._knows("tool_calls") else "a function call"
        role = str(message["role"])
        known = role in ("user", "assistant", "system", "developer") or self._knows(role)
        return None if known else f"the role {role}"

    @property
    def knows_tools(self) -> bool:
        """Whether the template tells the assistant which functions it may call."""
        return bool(re.search(r"\btools\b", self._source))

    @cached_property
    def _source(self) -> str:
        """The template's text."""
        return self._given or text_for(self.tokenizer, with_tools=True)

    def _ids(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], add_generation_prompt: bool
    ) -> list[int]:
        from jinja2 import TemplateError

        for message in messages:
            if unknown := self.unknown(message):
                raise FalconError(f"this target's chat template has no words for {unknown}")
        if tools and not self.knows_tools:
            _tell("this target's chat template has no words for tools: they are left out")
        wanted = self._with_known_system(messages)
        marked = list(map(self._marked, wanted))
        try:
            text = self._written(marked, tools, add_generation_prompt)
        except (TemplateError, TypeError, ValueError, LookupError) as error:  # templates are programs
            raise FalconError(f"the chat template does not take these messages: {first_line(error)}") from error
        return self._encoded(text, marked != wanted)

    def _written(self, messages: list[Message], tools: Sequence[dict[str, Any]], add_generation_prompt: bool) -> str:
        """The template's text; it has written BOS itself."""
        text: Any = self.tokenizer.apply_chat_template(
            messages,
            tools=list(tools) or None,
            chat_template=dated(self._given or text_for(self.tokenizer, bool(tools)), self._date),
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        return str(text)

    def _with_known_system(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with what instructs the assistant where the template takes it."""
        developer = "developer" if self._knows("developer") else "system"
        messages = [{**m, "role": developer} if m["role"] == "developer" else m for m in messages]
        if messages[0]["role"] != "system" or self._knows("system"):
            return messages
        system, *others = messages
        first = next((place for place, message in enumerate(others) if message["role"] == "user"), None)
        if first is None or not system["content"].strip():
            return others
        _tell("this target's chat template has no system role: the system text goes before the first user's words")
        others[first] = {**others[first], "content": f"{system['content']}\n\n{others[first]['content']}"}
        return others

    def _knows(self, role: str) -> bool:
        """Whether the template has words for messages of this role, or for an assistant's `tool_calls`.

        A template that writes whatever role it is given, as ChatML's does, knows only those that it names.
        """
        if role not in self._known:
            self._known[role] = self._tried(role)
        return self._known[role]

    def _tried(self, role: str) -> bool:
        question: Message = {"role": "user", "content": "?"}
        message: Message = {"role": role, "content": _TRIAL}
        trial = [question, message]
        if role in ("system", "developer"):
            trial = [message, question]
        elif role == "tool_calls":
            trial = [question, {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
        elif role == "tool" and self._knows("tool_calls"):
            call = {**_CALL, "function": {"name": "f", "arguments": {}}}
            caller: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
            trial = [question, caller, {**message, "name": "f", "tool_call_id": call["id"]}]
        named = role in ("system", "tool_calls") or re.search(rf"""['"]{re.escape(role)}['"]""", self._source)
        try:
            return bool(named) and _TRIAL in self._written(trial, (), True)
        except Exception:  # templates are programs
            return False

    def _marked(self, message: Message) -> Message:
        """The message with the control tokens in its words marked."""
        if self._parse_special:
            return message
        from transformers.utils.chat_template_utils import mark_control_tokens

        ours = self._control_tokens[message["role"] == "assistant"]
        marked: Message = mark_control_tokens(message, ours) if _contains(message, ours) else message
        return marked

    @cached_property
    def _control_tokens(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Tokens that end or begin something: all that anyone's words may not hold, and those of an assistant's.

        Those of the template that are not special, such as `<think>`, an assistant has said itself.
        """
        added = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        written = {token.content for token in added if token.content.strip() and token.content in self._source}
        return _any_of(special | written), _any_of(special)

    def _encoded(self, text: str, marked: bool) -> list[int]:
        from transformers.utils.chat_template_utils import encode_marked_chat

        if not marked:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids
        try:
            return list(encode_marked_chat(self.tokenizer, text))
        except ValueError as error:  # the tokenizer makes the control token of its words
            raise FalconError(f"{first_line(error)}; --parse-special encodes it as a control token") from error


def render_raw(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of plain text, with whatever the tokenizer puts around a text (such as BOS).

    Raises:
        FalconError: nothing is left of the text.
    """
    ids: list[int] = tokenizer(text)["input_ids"]
    if not ids:
        raise FalconError("the prompt is empty")
    return ids


def _any_of(words: set[str]) -> re.Pattern[str]:
    """Finds the longest of these words; without one, nothing."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")


def _contains(value: object, pattern: re.Pattern[str]) -> bool:
    """Whether a text in a message's fields matches."""
    if isinstance(value, str):
        return pattern.search(value) is not None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(_contains(part, pattern) for part in parts)


@cache
def _tell(line: str) -> None:
    """Say something once."""
    say(line)
