"""Chat templates and tokenizers for tests, and a tiny model that chats."""

import copy
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """A byte-level BPE tokenizer with a handful of merges and a chat template; `<|im_end|>` ends an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ã", "©")]
    words = [*letters, *("".join(pair) for pair in merges)]
    bpe = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "chatml": CHATML,
    "date": "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + CHATML,
    "time": "<|im_start|>system\nIt is {{ strftime_now('%H:%M:%S') }}.<|im_end|>\n" + CHATML,
    # as Gemma's: no system role, and another name for the assistant
    "no system": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
    ),
    # as Qwen2.5's: tools in the system text, calls and their results in words of their own
    "tools": (
        "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<result>{{ m.content }}</result><|im_end|>\n"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
        "<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}" + _ASK
    ),
    # as a reasoning model's: earlier answers lose their thoughts
    "thoughts": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and '</think>' in m.content %}"
        "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        "{% endfor %}" + _ASK
    ),
}
"""Chat templates in the manner of families that people use."""


@pytest.fixture(scope="session")
def speaking(byte_tokenizer: Any) -> Callable[..., Any]:
    """The byte tokenizer with one of `TEMPLATES`, and further tokens: `speaking("tools", "<think>")`."""

    def build(template: str, *tokens: str) -> Any:
        tokenizer = copy.deepcopy(byte_tokenizer)
        tokenizer.add_tokens(list(tokens))
        tokenizer.chat_template = TEMPLATES[template]
        return tokenizer

    return build


@pytest.fixture
def template_file(tmp_path: Path) -> Callable[[str], Path]:
    """One of `TEMPLATES` as a file."""

    def write(name: str) -> Path:
        (tmp_path / "template.jinja").write_text(TEMPLATES[name])
        return tmp_path / "template.jinja"

    return write


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set the clock, falcon's and the one that transformers gives to templates: `clock("2026-02-28 23:59:58")`."""
    from transformers.utils import chat_template_utils

    from falcon_cli.recipe import provenance

    ours = [module for module in list(sys.modules.values()) if getattr(module, "now", None) is provenance.now]

    def set_to(time: str) -> None:
        moment = datetime.fromisoformat(time).astimezone()
        frozen = type("Frozen", (datetime,), {"now": classmethod(lambda cls, tz=None: moment)})
        monkeypatch.setattr(chat_template_utils, "datetime", frozen)
        for module in ours:
            monkeypatch.setattr(module, "now", lambda: moment)

    return set_to


@pytest.fixture(scope="session")
def chat_target(tiny_model: Callable[..., Any], byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama that chats (in noise): fp32, a context of 512 tokens."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    tiny_model(
        dtype=torch.float32, vocab_size=len(byte_tokenizer), max_position_embeddings=512, seed=12
    ).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder
