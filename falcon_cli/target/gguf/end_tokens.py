"""The tokens at which a GGUF file's model has said all it wants to say."""

from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.tokenizer import CONTROL, special_id

_NAMES = {
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
    *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
}
_PARTS = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})  # with these, <|end|> only ends a part of an answer


def end_tokens(file: GgufFile) -> list[int]:
    """Ids of the end tokens: the file's own end of text, turn and message, and control tokens of llama.cpp's list.

    The end of text comes first.
    """
    kinds = file.get("tokenizer.ggml.token_type") or []
    named = {
        token: number
        for number, (token, kind) in enumerate(zip(file.get("tokenizer.ggml.tokens", ()), kinds, strict=False))
        if kind == CONTROL and token in _NAMES
    }
    if any(part <= named.keys() for part in _PARTS):
        named.pop("<|end|>", None)
    if "<|tool_response>" in named:
        named.pop("</s>", None)
    stated = [special_id(file, name) for name in ("eos", "eot", "eom")]
    return list(dict.fromkeys(token for token in [*stated, *named.values()] if token is not None))
