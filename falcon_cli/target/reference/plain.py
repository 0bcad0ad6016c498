"""`transformers.generate` as plain greedy decoding, whatever the target's own generation configuration asks for.

transformers fills every value that a call leaves open from the model's `generation_config`. So that is put aside while
it generates: nothing of it can change the text.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from falcon_cli.console import say

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "num_beams": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "stop_strings": ([],),
    "watermarking_config": (),
}
"""Settings that change greedy text → their values, besides None, that do not."""


def generate(
    model: Any,
    prompt: list[int],
    stop_ids: frozenset[int],
    tokens: int,
    settings: Mapping[str, Any] | None = None,
    streamer: Any = None,
) -> Any:
    """What `model.generate` returns for one prompt, decoded greedily with no penalties and no bans.

    Args:
        model: transformers' causal LM.
        prompt: Token ids.
        stop_ids: They end the text.
        tokens: The most new tokens.
        settings: More settings of the generation, such as prompt lookup.
        streamer: Hears the tokens as they come.
    """
    from transformers import GenerationConfig

    ids = torch.tensor([prompt], device=model.device)
    bare = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=min(stop_ids, default=0),
        **(settings or {}),
    )
    own, model.generation_config = model.generation_config, bare
    try:
        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=bare, streamer=streamer)
    finally:
        model.generation_config = own


def penalties(config: Any) -> list[str]:
    """What a generation configuration asks for that changes greedy text, such as `repetition_penalty 1.3`."""
    values = {name: getattr(config, name, None) for name in NEUTRAL}
    asked = [name for name, value in values.items() if value is not None and value not in NEUTRAL[name]]
    return [f"{name} {values[name]}" if isinstance(values[name], int | float) else name for name in asked]


def tell_penalties(name: str, config: Any) -> None:
    """Tell the user, once a target, which of its penalties and bans falcon leaves out."""
    if asked := penalties(config):
        _tell(f"{name} asks for {', '.join(asked)}: falcon decodes plainly, without")


@cache
def _tell(line: str) -> None:
    say(line)
