"""A GGUF file's keys become a transformers configuration; no key is passed over in silence."""

import re
from collections.abc import Set
from typing import Any

from falcon_cli.console import warn
from falcon_cli.errors import first_line
from falcon_cli.target.gguf.architectures import ARCHITECTURES
from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.rope import KEYS as ROPE_KEYS
from falcon_cli.target.gguf.rope import rope_parameters
from falcon_cli.target.gguf.tokenizer import special_id

_READ_ANYWHERE = frozenset(["vocab_size", "attention.key_length", "attention.value_length", "attention.causal"])
_HARMLESS = frozenset(["tensor_data_layout", "rope.scaling.finetuned"])  # notes on how the file came about
_TOKENIZER_STARTS = ("tokenizer.ggml.fim_", "tokenizer.chat_", "tokenizer.huggingface")
_HARMLESS_STARTS = ("general.", "quantize.", "split.", *_TOKENIZER_STARTS)
_TOKENIZER_KEYS = re.compile(
    r"tokenizer\.ggml\.(model|pre|tokens|token_type|token_type_count|scores|merges|add_(bos|eos|sep)_token|"
    r"(bos|eos|eot|eom|unknown|seperator|padding|cls|mask|prefix|suffix|middle)_token_id|"
    r"add_space_prefix|remove_extra_whitespaces|precompiled_charsmap)"
)


def model_config(file: GgufFile) -> Any:
    """The configuration of the file's model.

    Raises:
        FalconError: A key that transformers, or falcon, cannot follow, by name.
    """
    from transformers import AutoConfig

    check_keys(file, ARCHITECTURES[file.architecture].names.keys() | ARCHITECTURES[file.architecture].reads)
    network, known = ARCHITECTURES[file.architecture], _sizes(file)
    head_size = known.pop("head_size")
    if network.head_dim:
        known["head_dim"] = head_size
    known["rope_parameters"] = rope_parameters(file, head_size, network.partial)
    known = {"model_type": network.model_type, **known, **network.extra(file, known)}
    try:
        return AutoConfig.for_model(**known, **_text_ends(file))
    except Exception as error:  # transformers checks what it is given
        raise file.refusal(f"transformers does not take its settings ({first_line(error)})") from error


def check_keys(file: GgufFile, read: Set[str], refuse: bool = True) -> None:
    """Refuse keys that change what the model computes and are not among those read; warn of those nobody knows.

    Args:
        file: The file.
        read: Names of the architecture's keys, without it, that the conversion follows.
        refuse: Only warn where False.

    Raises:
        FalconError: Such a key, by name.
    """
    if file.own("attention.causal", True) is False:
        raise file.refusal(f"{file.architecture}.attention.causal is False: it writes no text from left to right")
    odd = [key for key in file.metadata if not key.startswith(f"{file.architecture}.") and not _known_elsewhere(key)]
    for name in file.own_names():
        value = file.own(name)
        if name in read or name in ROPE_KEYS or name in _READ_ANYWHERE or name in _HARMLESS or value in (0, []):
            continue  # 0 and False leave a part of a network out
        key = f"{file.architecture}.{name}"
        if refuse and f"{{arch}}.{name}" in _hyperparameters():
            raise file.refusal(
                f"{key} is {str(value)[:60]}: falcon cannot follow this key, and the model would be another"
            )
        odd.append(key)
    if odd:
        warn(f"{file.path}: falcon does not know what these keys are for, and leaves them out: {', '.join(odd)}")


def _known_elsewhere(key: str) -> bool:
    return key.startswith(_HARMLESS_STARTS) or _TOKENIZER_KEYS.fullmatch(key) is not None


def _hyperparameters() -> set[str]:
    """Every key of an architecture that llama.cpp knows, such as `{arch}.block_count`."""
    from gguf.constants import Keys

    groups = [vars(group).values() for group in vars(Keys).values() if isinstance(group, type)]
    return {key for group in groups for key in group if isinstance(key, str) and key.startswith("{arch}.")}


def _sizes(file: GgufFile) -> dict[str, Any]:
    """The entries that have a key each, and what follows from them; `head_size` beside them."""
    found: dict[str, Any] = {}
    for name, entry in ARCHITECTURES[file.architecture].names.items():
        value = file.own(name)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise file.refusal(f"{file.architecture}.{name} differs between layers: falcon knows no such model")
            value = value[0]
        if value:  # llama.cpp takes 0 for "not there", too
            found[entry] = value
    needed = ["num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings", "intermediate_size"]
    for name, entry in ARCHITECTURES[file.architecture].names.items():
        if entry in needed and entry not in found:
            raise file.refusal(f"{file.architecture}.{name} is missing")
    heads = found["num_attention_heads"]
    return {
        "num_key_value_heads": heads,
        **found,
        "head_size": _head_size(file, found["hidden_size"] // heads),
        "vocab_size": file.own("vocab_size", len(file.get("tokenizer.ggml.tokens", ()))),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _head_size(file: GgufFile, even: int) -> int:
    size = file.own("attention.key_length", even)
    if file.own("attention.value_length", size) != size:
        raise file.refusal(
            f"{file.architecture}.attention.value_length differs from key_length: falcon knows no such model"
        )
    if size != even and not ARCHITECTURES[file.architecture].head_dim:
        raise file.refusal(f"{file.architecture}.attention.key_length is {size}: transformers knows only {even} here")
    return int(size)


def _text_ends(file: GgufFile) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{short}_token_id": special_id(file, name) for short, name in names.items()}
