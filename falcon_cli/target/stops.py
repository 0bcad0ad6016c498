"""The tokens at which a target has said all it wants to say."""

from typing import Any

_ANSWER = "an answer"


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """End tokens of the generation configuration and the tokenizer, and the one that ends a turn of a chat.

    A chat model whose end of text is another token would otherwise go on and write the user's next turn itself.
    """
    named = [model.generation_config.eos_token_id, tokenizer.eos_token_id, end_of_turn(tokenizer)]
    flat = [token for entry in named for token in (entry if isinstance(entry, list) else [entry])]
    return frozenset(token for token in flat if token is not None)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template writes directly behind what the assistant says; None without one."""
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # no template, or one that wants other turns: templates are programs
        return None
    _, found, tail = text.rpartition(_ANSWER)
    if not found:
        return None
    special = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    behind = [content for content in special if tail.lstrip().startswith(content)]
    return special[max(behind, key=len)] if behind else None
