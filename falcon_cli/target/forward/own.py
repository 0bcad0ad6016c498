"""One forward of a transformers model, untouched: its own embedding, layers, multipliers and head, on our cache.

The model's class computes everything, so whatever lies between embedding and logits (multipliers of Granite, capped
logits of Gemma 2, a projection before the head) is its own. Ours are the cache and, for trees, the positions and what
attention sees.

Shapes: T rows of a forward, B batch, L positions of texts, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
        self._takes, self._takes_any = arguments_of(model)
        self._cache_argument = cache_argument(model)
        self.by_head = model.get_decoder() is model.get_output_embeddings()
        """Features are what the head is given, so that must be every row: it names no decoder, or `look` found that its
        decoder's output is something else."""
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
        if last and "logits_to_keep" in self._takes and not self.by_head:
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

    def look(self, tokens_T: Tensor, cache: Any, view: Visibility | None = None) -> "HeadInput":
        """Read rows for the first time, to learn what the head reads."""
        made: list[tuple[nn.Module, Tensor]] = []
        asked: list[Tensor] = []
        said: list[Any] = []

        def note(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                made.append((module, output))

        def note_decoder(module: nn.Module, given: Any, output: Any) -> None:
            said.append(getattr(output, "last_hidden_state", None))

        head = self.model.get_output_embeddings()
        hooks = [module.register_forward_hook(note) for module in self.model.modules() if module is not head]
        hooks.append(head.register_forward_pre_hook(lambda module, given: asked.append(given[0])))
        hooks.append(self.model.get_decoder().register_forward_hook(note_decoder))
        try:
            self(tokens_T, cache, view)
        finally:
            for hook in hooks:
                hook.remove()
        if not asked:  # no module of its own: the model's class multiplies by the head's weights itself
            return HeadInput()
        rows = asked[-1]
        self.by_head = not (said and said[-1] is not None and same_tensor(said[-1], rows))
        for module, output in made:
            if same_tensor(output, rows):
                return HeadInput(module, 1.0, rows)
        for module, output in reversed(made):
            if (factor := factor_of(output, rows)) is not None:
                return HeadInput(module, factor, rows)
        return HeadInput(rows=rows)

    @property
    def reader(self) -> Any:
        """The module that `features` runs: the decoder, or with `by_head` the whole model."""
        return self.model if self.by_head else self.model.get_decoder()

    def features(self, tokens_BL: Tensor, **given: Any) -> Tensor:
        """What the head reads of texts [B, L, D], by the model's own attention, which it must be on.

        Args:
            tokens_BL: Texts, padded.
            given: For the model: a mask, positions, a cache. Without positions they count from 0.
        """
        return features_of(self.model, self.by_head, tokens_BL, **given)

    def own_logits(self, tokens_L: Tensor) -> Tensor:
        """The logits [L, V] of a text, by the model's own forward and attention, without a cache."""
        given: dict[str, Any] = {"use_cache": False} if "use_cache" in self._takes or self._takes_any else {}
        if "position_ids" in self._takes:
            given["position_ids"] = torch.arange(len(tokens_L), device=tokens_L.device)[None]
        logits_LV: Tensor = self.model(input_ids=tokens_L[None], **given).logits[0]
        return logits_LV

    def behind_head(
        self, tokens_T: Tensor, cache: Any, view: Visibility | None, outputs_RV: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the class makes of its head's outputs: of those of some tokens, and of any others.

        Returns:
            The head's own outputs with the others below, [T + R, V], and the logits that the class makes of them all.
        """
        kept: list[Tensor] = []

        def add(module: nn.Module, given: Any, own_BTV: Tensor) -> Tensor:
            wide = torch.promote_types(own_BTV.dtype, torch.float32)
            kept.append(torch.cat([own_BTV.to(wide), outputs_RV[None].to(wide)], 1))
            return kept[-1]

        with hooked(self.model.get_output_embeddings().register_forward_hook, add):
            logits, _ = self(tokens_T, cache, view)
        return kept[-1][0], logits

    def _note_decoder(self, module: nn.Module, given: Any, output: Any) -> None:
        hidden = getattr(output, "last_hidden_state", None)
        if self._listening and hidden is not None and not self.by_head:  # other people's forwards are none of ours
            self._features = hidden[0]

    def _note_head(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if self._listening and self._features is None:  # a model whose head is part of another module
            self._features = given[0][0]


def features_of(model: Any, by_head: bool, tokens_BL: Tensor, **given: Any) -> Tensor:
    """See `CausalForward.features`."""
    reader = model if by_head else model.get_decoder()
    takes, takes_any = arguments_of(reader)
    if "position_ids" in takes and "position_ids" not in given:  # some classes by themselves begin at 2
        given["position_ids"] = torch.arange(tokens_BL.shape[1], device=tokens_BL.device).expand_as(tokens_BL)
    given = {name: value for name, value in given.items() if name in takes or takes_any}
    if not by_head:
        features_BLD: Tensor = reader(input_ids=tokens_BL, **given).last_hidden_state
        return features_BLD
    kept: list[Tensor] = []

    def note(module: nn.Module, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(rows[0])
        return rows[0][:, -1:], *rows[1:]  # logits of all rows would be computed for nothing

    with hooked(model.get_output_embeddings().register_forward_pre_hook, note):
        reader(input_ids=tokens_BL, **given)
    return kept[-1]


@dataclass(frozen=True)
class HeadInput:
    """What the LM head reads."""

    module: Any = None
    """The innermost module whose output that is; None where no module's is."""
    factor: float = 1.0
    """What that output is multiplied by first."""
    rows: Tensor | None = None
    """Some of it [B, L, D]."""


@contextmanager
def hooked(register: Callable[[Any], Any], hook: Any) -> Iterator[None]:
    """A hook on a module until the block ends."""
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


def arguments_of(module: Any) -> tuple[frozenset[str], bool]:
    """The names that a module's forward takes, and whether it takes any other."""
    parameters = signature(type(module).forward).parameters
    return frozenset(parameters), any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())


def same_tensor(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same rows of memory."""
    return one.shape == other.shape and one.data_ptr() == other.data_ptr() and one.dtype == other.dtype


def factor_of(output: Tensor, rows: Tensor) -> float | None:
    """What an output was multiplied by to give these rows; None where it was not."""
    if output.shape != rows.shape or not bool(output.any()):
        return None
    output, rows = output.double(), rows.double()
    factor = float((output * rows).sum() / output.square().sum())
    return factor if factor != 0 and torch.allclose(output * factor, rows, rtol=1e-2, atol=1e-6) else None
