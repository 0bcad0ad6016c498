"""The text of a chat template: the tokenizer's, one of ours, or a file's; and told the date of the run.

Most tokenizers bring their chat template. Vicuna's and LLaMA-2's often do not, so theirs are here, as in FastChat's
conversation.py (`vicuna_v1.1`, `llama-2`) and Meta's llama/generation.py. Neither gets a default system prompt beyond
the sentence that Vicuna was trained with.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_cli.errors import FalconError, UsageError
from falcon_cli.spelling import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# SYSTEM USER: question ASSISTANT: answer</s>USER: question ASSISTANT:
_VICUNA = """\
{{- bos_token or '' -}}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}
    {%- set messages = messages[1:] -%}
{%- else -%}
    {%- set system = 'A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' -%}
{%- endif -%}
{{- system + ' ' -}}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- 'USER: ' + message['content'] + ' ' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' + message['content'] + eos_token -}}
    {%- else -%}
        {{- raise_exception('the system message must come first') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""

# <s>[INST] <<SYS>>
# system
# <</SYS>>
#
# question [/INST] answer </s><s>[INST] question [/INST]
_LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- set messages = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
        {{- raise_exception('user and assistant must take turns, the user first') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {%- set question = (system if loop.first else '') + message['content'] -%}
        {{- (bos_token or '') + '[INST] ' + question.strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

TEMPLATES = {"vicuna": _VICUNA, "llama-2": _LLAMA_2}
"""Our own chat templates by name (Jinja)."""

# Takes the place of transformers' function, which asks the clock anew each time. Its last line break is not written.
_CLOCK = """\
{% macro strftime_now(format) %}{% set told = namespace(text=format) %}{% for code, value in VALUES %}\
{% set told.text = told.text.replace(code, value) %}{% endfor %}{{ told.text }}{% endmacro %}
"""
_CODES = "aAbBcdDeFfGhHIjklmMnpRrsStTuUVwWxXyYzZ"
"""What may follow the percent sign of a date's format (Python's and glibc's)."""


def given_text(template: str) -> str:
    """The text of a template by its name in `TEMPLATES`, or of a Jinja file.

    Raises:
        UsageError: it is neither.
        FalconError: the file cannot be read.
    """
    return TEMPLATES.get(template) or _read(template)


def text_for(tokenizer: PreTrainedTokenizerBase, with_tools: bool) -> str:
    """The text of a tokenizer's own template, else of ours where its name says Vicuna or LLaMA-2.

    Args:
        tokenizer: the target's.
        with_tools: of several templates, take the one for dialogues with tools.

    Raises:
        FalconError: no template is known for this tokenizer.
    """
    own = tokenizer.chat_template
    if isinstance(own, dict):  # some families have one for tools, and a default
        own = own.get("tool_use" if with_tools else "default") or own.get("default") or next(iter(own.values()))
    if own:
        return str(own)
    name = str(tokenizer.name_or_path).lower()
    ours = next((ours for ours in TEMPLATES if ours in name or ours.replace("-", "") in name), None)
    if ours is None:
        raise FalconError(
            "this target's tokenizer has no chat template: use --raw for plain text, "
            f"or --template with one of {', '.join(TEMPLATES)} or a Jinja file"
        )
    return TEMPLATES[ours]


@cache
def dated(text: str, date: datetime) -> str:
    """A template that is told this date wherever it asks for today's."""
    if "strftime_now" not in text:
        return text
    return _CLOCK.replace("VALUES", json.dumps(_values(date))) + text


def _values(date: datetime) -> list[tuple[str, str]]:
    """What each code of a format stands for on a date, with and without a leading zero."""
    values = [("%%", "\0")]
    for code in (f"%{dash}{letter}" for dash in ("", "-") for letter in _CODES):
        with suppress(ValueError):  # some systems know fewer codes
            values.append((code, date.strftime(code)))
    return [*values, ("\0", "%")]


def _read(template: str) -> str:
    path = Path(os.path.expanduser(template))
    if not path.is_file():
        hint = did_you_mean(template, TEMPLATES)
        raise UsageError(f'no template or file "{template}"{hint}: give one of {", ".join(TEMPLATES)}, or a Jinja file')
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FalconError(f"cannot read {path}: {error}") from error
