"""One forward of a transformers model, untouched: its own embedding, layers, multipliers and head, on our cache.

The model's class computes everything, so whatever lies between embedding and logits (multipliers of Granite, capped
logits of Gemma 2, a projection before the head) is its own. Ours are the cache and, for trees, the positions and what
attention sees.

Shapes: T rows of a forward, D hidden size, V vocabulary.
"""

from contextlib import nullcontext
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from falcon_cli.attention.reading import reading
from falcon_cli.attention.view import Visibility
from falcon_cli.kv_cache import cache_argument


class CausalForward:
    """Logits and features of token rows.

    Args:
        model: `AutoModelForCausalLM`.
        dtype: Of the hidden states where native kernels serve; None leaves the model's own.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None):  # transformers' models are untyped
        self.model = model
        takes = signature(type(model).forward).parameters
        self._takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in takes.values())
        self._takes, self._cache_argument = takes.keys(), cache_argument(model)
        self._headless = model.get_decoder() is model.get_output_embeddings()
        """It names no decoder: features are what its head is given, so that must be every row."""
        self._listening = False
        self._features: Tensor | None = None
        self._hooks = [
            model.get_decoder().register_forward_hook(self._note_decoder),
            model.get_output_embeddings().register_forward_pre_hook(self._note_head),
        ]
        if dtype is not None:
            embedding = model.get_input_embeddings()
            self._hooks.append(embedding.register_forward_hook(lambda module, given, rows: rows.to(dtype)))

    def release(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def __call__(
        self, tokens_T: Tensor, cache: Any, view: Visibility | None = None, last: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Logits [T, V] and features [T, D]; with `last` logits of the last row alone [1, V].

        The rows' keys and values are written behind what the cache holds. Without a view the rows are a chain that the
        model reads by its own attention; with one, the model must be on a backend of ours.
        """
        given: dict[str, Any] = {}
        if "use_cache" in self._takes or self._takes_any:
            given["use_cache"] = True
        if last and "logits_to_keep" in self._takes and not self._headless:
            given["logits_to_keep"] = 1
        if view is not None:
            given["position_ids"] = view.position_T[None]
        elif "position_ids" in self._takes:  # as generate gives them: some classes by themselves begin at 2
            begin = cache.get_seq_length()
            given["position_ids"] = torch.arange(begin, begin + len(tokens_T), device=tokens_T.device)[None]
        self._listening = True
        try:
            with nullcontext() if view is None else reading(view):
                output = self.model(input_ids=tokens_T[None], **given, **{self._cache_argument: cache})
        finally:
            self._listening = False
        features_TD, self._features = self._features, None
        assert features_TD is not None
        logits_TV: Tensor = output.logits[0]
        return logits_TV[-1:] if last else logits_TV, features_TD

    def _note_decoder(self, module: nn.Module, given: Any, output: Any) -> None:
        hidden = getattr(output, "last_hidden_state", None)
        if self._listening and hidden is not None:  # other people's forwards are none of ours
            self._features = hidden[0]

    def _note_head(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if self._listening and self._features is None:  # a model whose head is part of another module
            self._features = given[0][0]
