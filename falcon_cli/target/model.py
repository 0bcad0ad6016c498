"""The target: any Llama-like causal LM of transformers, reading and scoring over a static cache.

Shapes: L prompt tokens, T nodes, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from falcon_cli.attention.backend import BACKENDS, implementation
from falcon_cli.attention.view import View
from falcon_cli.core import WIDEST_DRAFT, Draft, Scores
from falcon_cli.errors import FalconError
from falcon_cli.kv_cache import KeyValueCache, LayerCache, SlotCache, StaticCache
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.panel_cache import PanelCache
from falcon_cli.native.quantized import WeightRows, device_of, rows_of
from falcon_cli.native.swap import NativeLayers
from falcon_cli.target.forward.branches import read_branches
from falcon_cli.target.forward.graphs import FixedReader
from falcon_cli.target.forward.logits import PLAIN, LogitForm, fitted, outputs_to_ask
from falcon_cli.target.forward.longrope import LongRope, boundary_of
from falcon_cli.target.forward.norm import FinalNorm, final_norm
from falcon_cli.target.forward.own import CausalForward, HeadInput
from falcon_cli.target.outline import TargetOutline, epsilon_of

_FEW_ROWS = 2
"""Logits of so many rows are kept: a draft model's are asked for."""


class TargetModel:
    """A frozen causal LM with its cache: prefill, score a tree, commit a path.

    Args:
        model: `AutoModelForCausalLM` with a decoder and an LM head; its attention is switched to `attention`.
        attention: Name of the attention backend.
        chunk: Prompt tokens read in one forward.
        native: The native kernels that its layers were swapped for, if they were.
        compiled: Score drafts by compiled graphs of fixed shapes (`graphs.py`); needs the attention sdpa.
        branches: Read drafts branch by branch on the model's own attention (`branches.py`).
    """

    def __init__(  # transformers' models are untyped
        self,
        model: Any,
        attention: str = "sdpa",
        chunk: int = 512,
        native: NativeLayers | None = None,
        compiled: bool = False,
        branches: bool = False,
    ):
        self.model, self.native = model.eval().requires_grad_(False), native
        self.own_attention: str = own_attention(model)
        """transformers' name for the attention that the model came with."""
        self.backend, self.branches = attention, branches
        self.attention = self.own_attention if branches else implementation(attention)
        self.model.set_attn_implementation(self.attention)
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.chunk = chunk
        self.sharded = False
        """Its layers are spread over processes: forwards must be run by all of them together."""
        head = rows_of(self.head)
        self.device = device_of(head)
        self.dtype: torch.dtype = head.dtype if isinstance(head, Tensor) and native is None else torch.float32
        """Of features and logits."""
        self.forward = CausalForward(model, None if native is None else self.dtype)
        self.graphs = FixedReader(self.forward) if compiled else None
        self.config = model.config.get_text_config(decoder=True)
        boundary = boundary_of(self.config)
        self.longrope = None if boundary is None else LongRope(model, boundary)
        self._text: list[Tensor] = []
        """The committed tokens, and the draft's scored last, where longrope may have to read the text anew."""
        self._scored = torch.empty(0)
        self.context_limit: int = context_of(self.config)
        self.vocab_size, self.hidden_size = head.shape
        self._head_input = HeadInput(getattr(self.decoder, "norm", None))
        self.embedding_rows: int = len(rows_of(model.get_input_embeddings()))
        """A token can be read if its id is less; a tokenizer may have added tokens beyond."""
        self.cache: KeyValueCache = self._empty_cache()
        self.outline = TargetOutline(self.hidden_size, self.config, self.decoder, self._final_norm)
        """What a drafter is built on."""

    @torch.inference_mode()
    def prefill(self, prompt_L: Tensor) -> Scores:
        """Forget everything and read a prompt, chunk by chunk.

        Returns:
            Logits of the last prompt token [1, V] and features of every prompt token [L, D].

        Raises:
            FalconError: The prompt is empty, longer than the context, or has tokens that the embedding has not.
        """
        self.check_room(len(prompt_L), 1)
        if (highest := int(prompt_L.max())) >= self.embedding_rows:
            raise FalconError(f"the text has a token of id {highest}, the model's embedding {self.embedding_rows} rows")
        if self.longrope is not None:
            self.longrope.long = len(prompt_L) > self.longrope.boundary
        return self._read_text(prompt_L)

    @torch.inference_mode()
    def score(self, draft: Draft) -> Scores:
        """Score every node in one forward: logits [T, V], features [T, D]."""
        if self.longrope is not None:
            if not self.longrope.long and self.cache.length >= self.longrope.boundary:
                self.longrope.long = True
                self._read_text(torch.cat(self._text)[: self.cache.length])
            self._scored = draft.tokens_T
        return self._read(draft.tokens_T, draft.depth_T, draft.ancestors_TT)

    @torch.inference_mode()
    def commit(self, path: Sequence[int]) -> None:
        """Keep these nodes (ascending) of the draft just scored."""
        self.cache.commit(path)
        if self.longrope is not None:
            self._text.append(self._scored[list(path)])

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.cache.rewind(length)
        if self.longrope is not None:
            self._text = [torch.cat(self._text)[: self.cache.length]]

    @cached_property
    def logit_form(self) -> LogitForm | None:
        """How its class makes logits of the head's outputs; None where it does so in a way that is not known."""
        if self.native is not None and self.native.decoder is not None:
            return PLAIN  # the kernels are known to read such a model right, and make nothing of them
        tokens_T = torch.arange(2, device=self.device)
        with torch.no_grad():
            outputs_RV = outputs_to_ask(self.vocab_size, self.device)
            cache = LayerCache(self.context_limit + WIDEST_DRAFT, capacity=2)
            outputs, logits = self.forward.behind_head(tokens_T, cache, self._two_rows(), outputs_RV)
        return fitted(outputs, logits)

    def logits(self, features: Tensor) -> Tensor:
        """Logits [..., V] of features [..., D], as its class computes them.

        Raises:
            FalconError: It does so in a way that is not known.
        """
        if self.logit_form is None:
            family = type(self.model).__name__
            raise FalconError(f"a {family} makes logits of its LM head's outputs in a way that falcon does not know")
        logits: Tensor = self.logit_form(self.head(features))
        return logits

    @property
    def embedding_VD(self) -> WeightRows:
        """A vector for each token: the embedding's, or where that has another width than features the head's."""
        embedding = rows_of(self.model.get_input_embeddings())
        return embedding if embedding.shape[-1] == self.hidden_size else rows_of(self.head)

    @property
    def draft_room(self) -> int:
        """How many tokens deep a draft may be now."""
        return self.context_limit if self.longrope is None else self.longrope.room(self.cache.length)

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def check_room(self, prompt_tokens: int, new_tokens: int) -> None:
        """Refuse a text that cannot fit the context, before any work is done.

        Raises:
            FalconError: Empty prompt, or prompt and answer longer than the context.
        """
        limit = self.context_limit
        if prompt_tokens == 0:
            raise FalconError("the prompt is empty; give it at least one token")
        if prompt_tokens >= limit:
            raise FalconError(
                f"the prompt has {prompt_tokens} tokens, the target's context {limit}; shorten the prompt"
            )
        if prompt_tokens + new_tokens > limit:
            raise FalconError(
                f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones exceed the target's context of {limit}; "
                f"shorten the prompt or ask for at most {limit - prompt_tokens} new tokens"
            )

    @contextmanager
    def plain_transformers(self) -> Iterator[Any]:
        """The bare transformers model with its own attention, for peers that run on the same weights."""
        assert self.native is None, "native kernels have taken the model's layers: load the target with kernels torch"
        self.model.set_attn_implementation(self.own_attention)
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(self.attention)

    def weight_bytes(self) -> int:
        """Bytes of weights read to decode one token (the embedding only counts where the head is tied to it)."""
        if self.native is not None:
            return self.native.weight_bytes
        embedding = self.model.get_input_embeddings().weight
        parameters = {id(p): p for p in self.model.parameters()}
        if embedding is not self.head.weight:
            parameters.pop(id(embedding), None)
        return sum(p.numel() * p.element_size() for p in parameters.values())

    def _read_text(self, text_L: Tensor) -> Scores:
        """Read a text from its beginning, chunk by chunk."""
        self.cache.rewind(0)
        pieces = []
        for piece in text_L.split(self.chunk):
            depth_T = torch.arange(len(piece), device=self.device)
            pieces.append(self._read(piece, depth_T, None, last=True))
            self.cache.commit(range(len(piece)))
        self._text = [text_L]
        end = pieces[-1]
        return replace(end, features_TD=torch.cat([piece.features_TD for piece in pieces]))

    def _read(self, tokens_T: Tensor, depth_T: Tensor, ancestors_TT: Tensor | None, last: bool = False) -> Scores:
        """Scores of all rows, or features of all and logits of the last; keys and values are written, not kept."""
        self.cache.reserve(len(tokens_T))
        view = View(self.cache.length, depth_T, ancestors_TT)
        if isinstance(self.cache, PanelCache):
            return self._read_natively(self.cache, tokens_T, view, last)
        assert isinstance(self.cache, SlotCache)
        with nullcontext() if self.longrope is None else self.longrope.steering():
            if self.graphs is not None and ancestors_TT is not None:
                return Scores.of(*self.graphs.read(tokens_T, view, self.cache))
            if self.branches and ancestors_TT is not None:
                return Scores.of(*read_branches(self.forward, tokens_T, ancestors_TT, self.cache))
            return Scores.of(*self.forward(tokens_T, self.cache, None if self.branches else view, last))

    def _read_natively(self, cache: PanelCache, tokens_T: Tensor, view: View, last: bool) -> Scores:
        assert self.native is not None
        assert self.native.decoder is not None
        embedded_TD = self.model.get_input_embeddings()(tokens_T).to(self.dtype)
        features_TD = self.native.decoder(embedded_TD, view, cache)
        return self.scores_of(features_TD[-1:] if last else features_TD, features_TD)

    def scores_of(self, last_TD: Tensor, features_TD: Tensor) -> Scores:
        """Scores of some features, with the logits behind the last of them."""
        if not isinstance(self.head, NativeLinear) or len(last_TD) <= _FEW_ROWS:
            return Scores.of(self.head(last_TD), features_TD)
        head = self.head
        return Scores(features_TD, *head.best(last_TD), lambda: head(last_TD))

    def _two_rows(self) -> View | None:
        """How the first two tokens of a text are read."""
        return None if self.branches else View(0, torch.arange(2, device=self.device), None)

    def _final_norm(self) -> FinalNorm:
        read = self._head_input
        return final_norm(read.module, self.hidden_size, epsilon_of(self.config), read.factor, read.rows)

    def _empty_cache(self) -> KeyValueCache:
        """The kernels' own; else one buffer where two tokens show that layers are alike, or tensors of each layer."""
        limit = self.context_limit + WIDEST_DRAFT
        if self.native is not None and self.native.decoder is not None:
            return self.native.decoder.new_cache(limit)
        learned = LayerCache(limit, capacity=2)
        with torch.no_grad():  # inference tensors would not do for layers that are spread (FSDP)
            tokens_T = torch.zeros(2, dtype=torch.long, device=self.device)
            self._head_input = self.forward.look(tokens_T, learned, self._two_rows())
        if not learned.tensors():
            raise TypeError("its forward keeps no keys and values")
        shape = learned.uniform()
        if shape is None:
            return LayerCache(limit)
        return StaticCache(len(learned.layers), *shape, limit=limit, dtype=self.dtype, device=self.device)


def context_of(config: Any) -> int:
    """Positions that a model was made for, by its configuration; 2,048 where it names none."""
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
    found = (getattr(config, name, None) for name in names)
    return next((limit for limit in found if isinstance(limit, int) and limit > 0), 2048)


def own_attention(model: Any) -> str:
    """The attention that a model came with, by transformers' name; sdpa where it is on a backend of ours already."""
    name: str = model.config._attn_implementation
    return "sdpa" if name in map(implementation, BACKENDS) else name
