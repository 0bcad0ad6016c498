"""The tokenizer of a GGUF file, as llama.cpp builds it, for transformers."""

import json
from typing import Any

from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.pre_tokenizers import pre_tokenizer_of

CONTROL, USER_DEFINED, UNKNOWN = 3, 4, 2
"""Kinds of tokens (`tokenizer.ggml.token_type`)."""
_BY_TRANSFORMERS = ("llama", "t5", "gemma4")
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # where a SentencePiece file does not name them


def build_tokenizer(file: GgufFile) -> Any:
    """A `PreTrainedTokenizerFast` that cuts texts as llama.cpp does on the same file.

    Raises:
        FalconError: A kind of tokenizer that neither falcon nor transformers can build.
    """
    from transformers import PreTrainedTokenizerFast

    model = file.get("tokenizer.ggml.model")
    if model == "gpt2":
        backend, adds_begin = _byte_level(file)
    elif model in _BY_TRANSFORMERS:
        backend, adds_begin = _transformers_own(file), model == "llama"
    else:
        raise file.refusal(f"tokenizer.ggml.model is {model}: falcon reads gpt2, {', '.join(_BY_TRANSFORMERS)}")
    template = file.get("tokenizer.chat_template")
    begins = file.get("tokenizer.ggml.add_bos_token", adds_begin) and model != "gemma4"  # its template writes it
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        add_bos_token=begins and special_id(file, "bos") is not None,
        add_eos_token=file.get("tokenizer.ggml.add_eos_token", model == "t5"),
        clean_up_tokenization_spaces=False,  # transformers ignores it for merges: it would corrupt code
        **{f"{short}_token": _spelt(file, name) for short, name in _NAMES.items()},
        **({} if template is None else {"chat_template": template}),
    )


_NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def special_id(file: GgufFile, name: str) -> int | None:
    """The token of a role (bos, eos, eot, eom, unknown, padding); None where the file has none, or one out of range."""
    sentencepiece = file.get("tokenizer.ggml.model") == "llama"
    token = file.get(f"tokenizer.ggml.{name}_token_id", _SENTENCEPIECE_IDS.get(name) if sentencepiece else None)
    return token if token is not None and 0 <= token < len(file.get("tokenizer.ggml.tokens", ())) else None


def _spelt(file: GgufFile, name: str) -> str | None:
    token = special_id(file, name)
    return None if token is None else file.get("tokenizer.ggml.tokens")[token]


def _kinds(file: GgufFile) -> list[int]:
    return file.get("tokenizer.ggml.token_type") or [1] * len(file.get("tokenizer.ggml.tokens"))


def _byte_level(file: GgufFile) -> tuple[Any, bool]:
    """Merges of bytes; and whether a text begins with the begin token by default."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens, merges = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.merges")
    if not tokens or merges is None:
        raise file.refusal(f"no tokenizer.ggml.{'merges' if tokens else 'tokens'}: the file has no whole tokenizer")
    how, letters = pre_tokenizer_of(file), bytes_to_unicode()
    alphabet = set(letters.values())
    added, vocabulary = [], {}
    for number, (token, kind) in enumerate(zip(tokens, _kinds(file), strict=False)):
        if kind in (CONTROL, USER_DEFINED, UNKNOWN):  # found whole in a text
            added.append(AddedToken(token, normalized=False, special=kind != USER_DEFINED))
        elif not set(token) <= alphabet:  # written as text, not as bytes
            bytewise = "".join(letters[byte] for byte in token.encode())
            token = token if bytewise in vocabulary else bytewise
        vocabulary[token] = number
    pairs = [_pair(merge) for merge in merges]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=how.whole_words))
    backend.normalizer = normalizers.NFC() if how.nfc else None
    backend.pre_tokenizer = how.splitter()
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(added)
    return backend, how.begin_token


def _pair(merge: str) -> tuple[str, str]:
    at = merge.find(" ", 1)
    return merge[:at], merge[at + 1 :]


def _transformers_own(file: GgufFile) -> Any:
    """SentencePiece and its kin: transformers builds them from the vocabulary's scores."""
    from tokenizers import Tokenizer
    from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    told = {name: file.get(f"tokenizer.{key}") for key, name in names.items() if f"tokenizer.{key}" in file.metadata}
    backend = convert_gguf_tokenizer(file.architecture, told)[0]
    if file.get("tokenizer.ggml.model") == "llama" and not file.architecture.startswith("gemma"):
        _mark_spaces(backend, file.get("tokenizer.ggml.add_space_prefix", True))
    if file.architecture != "phi3":
        return backend
    shape = json.loads(backend.to_str())
    for token in shape["added_tokens"]:  # white space after one is cut off, as in llama.cpp
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    return Tokenizer.from_str(json.dumps(shape))


def _mark_spaces(backend: Any, first: bool) -> None:
    """Write spaces as SentencePiece does; `first`: put one before a text and behind every special token.

    transformers leaves that one out before a text that begins with a space; llama.cpp does not.
    """
    from tokenizers import decoders, normalizers

    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if first else spaces
    backend.pre_tokenizer = None
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if first else [])])
