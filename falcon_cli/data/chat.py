"""A dialogue becomes the token ids its target was trained to read.

Most tokenizers bring their chat template. Vicuna's and LLaMA-2's often do not, so theirs are here, as in FastChat's
conversation.py (`vicuna_v1.1`, `llama-2`) and Meta's llama/generation.py. Neither gets a default system prompt beyond
the sentence that Vicuna was trained with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from falcon_cli.data.prompts import Message
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


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: str | None = None) -> list[int]:
    """Return the prompt's token ids, ready for the assistant to answer.

    Args:
        tokenizer: the target's.
        messages: the dialogue so far, ending with the user's message.
        template: a name in `TEMPLATES` or a Jinja file; by default the tokenizer's own chat template, else one of
            ours when the tokenizer's name says Vicuna or LLaMA-2.

    Raises:
        FalconError: no template is known for this tokenizer, or the template refuses the messages.
        UsageError: `template` is neither a name nor a file.
    """
    from jinja2 import TemplateError

    source = _source(tokenizer, template)
    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=source, add_generation_prompt=True, tokenize=False
        )
    except TemplateError as error:
        raise FalconError(f"the chat template does not take these messages: {error}") from error
    # the template has written BOS itself
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def render_raw(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of plain text, with whatever the tokenizer puts around a text (such as BOS).

    Raises:
        FalconError: nothing is left of the text.
    """
    ids: list[int] = tokenizer(text)["input_ids"]
    if not ids:
        raise FalconError("the prompt is empty")
    return ids


def _source(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str | None:
    """Return the Jinja text to use; None means the tokenizer's own."""
    if template is not None:
        return TEMPLATES.get(template) or _read(template)
    if tokenizer.chat_template:
        return None
    name = str(tokenizer.name_or_path).lower()
    ours = next((ours for ours in TEMPLATES if ours in name or ours.replace("-", "") in name), None)
    if ours is None:
        raise FalconError(
            "this target's tokenizer has no chat template: use --raw for plain text, "
            f"or --template with one of {', '.join(TEMPLATES)} or a Jinja file"
        )
    return TEMPLATES[ours]


def _read(template: str) -> str:
    path = Path(os.path.expanduser(template))
    if not path.is_file():
        hint = did_you_mean(template, TEMPLATES)
        raise UsageError(f'no template or file "{template}"{hint}: give one of {", ".join(TEMPLATES)}, or a Jinja file')
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FalconError(f"cannot read {path}: {error}") from error
