"""One forward of a transformers model, untouched: its own embedding, layers, multipliers and head, on our cache.

The model's class computes everything, so whatever lies between embedding and logits (multipliers of Granite, capped
logits of Gemma 2, a projection before the head) is its own. Ours are the positions, the cache, and what attention sees.

Shapes: T rows of a forward, D hidden size, V vocabulary.
"""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from falcon_cli.attention.reading import NOW, reading
from falcon_cli.attention.view import Visibility
from falcon_cli.kv_cache import cache_argument


class CausalForward:
    """Logits and features of token rows.

    Args:
        model: `AutoModelForCausalLM` on one of our attention backends.
        dtype: Of the hidden states where native kernels serve; None leaves the model's own.

    Raises:
        TypeError: The class takes no positions or no cache, so a tree cannot be read by it.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None):  # transformers' models are untyped
        self.model = model
        takes = signature(type(model).forward).parameters
        for argument in ("position_ids", "use_cache"):
            if argument not in takes:
                raise TypeError(f"its forward has no argument {argument}")
        self._cache_argument = cache_argument(model)
        self._keeps = "logits_to_keep" in takes
        self._features: Tensor | None = None
        model.get_decoder().register_forward_hook(self._note_decoder)
        model.get_output_embeddings().register_forward_pre_hook(self._note_head)
        if dtype is not None:
            model.get_input_embeddings().register_forward_hook(lambda module, given, rows: rows.to(dtype))

    def __call__(self, tokens_T: Tensor, view: Visibility, cache: Any, last: bool = False) -> tuple[Tensor, Tensor]:
        """Logits [T, V] and features [T, D]; with `last` logits of the last row alone [1, V].

        The rows' keys and values are written behind what the cache holds.
        """
        keep = {"logits_to_keep": 1} if last and self._keeps else {}
        with reading(view):
            logits_TV: Tensor = self.model(
                input_ids=tokens_T[None],
                position_ids=view.position_T[None],
                use_cache=True,
                **keep,
                **{self._cache_argument: cache},
            ).logits[0]
        features_TD, self._features = self._features, None
        assert features_TD is not None
        return logits_TV[-1:] if last else logits_TV, features_TD

    def _note_decoder(self, module: nn.Module, given: Any, output: Any) -> None:
        if NOW.view is not None:  # not for other people's forwards
            self._features = output.last_hidden_state[0]

    def _note_head(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if NOW.view is not None and self._features is None:  # a model whose head is part of another module
            self._features = given[0][0]
