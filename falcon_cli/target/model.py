"""The target: any Llama-like causal LM of transformers, reading and scoring over a static cache.

Shapes: L prompt tokens, T nodes, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.view import View
from falcon_cli.core import WIDEST_DRAFT, Draft, Scores
from falcon_cli.errors import FalconError
from falcon_cli.kv_cache import StaticCache, cache_argument
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.swap import NativeLayers
from falcon_cli.target.graphs import FixedReader


class TargetModel:
    """A frozen causal LM with its cache: prefill, score a tree, commit a path.

    Args:
        model: `AutoModelForCausalLM` with a decoder and an LM head; its attention is switched to `attention`.
        attention: Name of the attention backend.
        chunk: Prompt tokens read in one forward.
        native: The native kernels that its layers were swapped for, if they were.
        compiled: Score drafts by compiled graphs of fixed shapes (`graphs.py`); needs the attention sdpa.
    """

    def __init__(  # transformers' models are untyped
        self,
        model: Any,
        attention: str = "sdpa",
        chunk: int = 512,
        native: NativeLayers | None = None,
        compiled: bool = False,
    ):
        self.model, self.native = model.eval().requires_grad_(False), native
        self.backend, self.attention = attention, implementation(attention)
        self.model.set_attn_implementation(self.attention)
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.chunk, self._cache_argument = chunk, cache_argument(self.decoder)
        self.graphs = FixedReader(self.decoder) if compiled else None
        self.sharded = False
        """Its layers are spread over processes: forwards must be run by all of them together."""
        self.device = self.head.weight.device
        self.dtype: torch.dtype = self.head.weight.dtype if native is None else torch.float32
        """Of features, logits and the cache."""
        config = model.config
        self.context_limit: int = config.max_position_embeddings
        self.vocab_size, self.hidden_size = self.head.weight.shape
        heads = config.num_attention_heads
        self.cache = StaticCache(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            limit=self.context_limit + WIDEST_DRAFT,
            dtype=self.dtype,
            device=self.device,
        )

    @torch.inference_mode()
    def prefill(self, prompt_L: Tensor) -> Scores:
        """Forget everything and read a prompt, chunk by chunk.

        Returns:
            Logits of the last prompt token [1, V] and features of every prompt token [L, D].

        Raises:
            FalconError: The prompt is empty or longer than the context.
        """
        self.check_room(len(prompt_L), 1)
        self.cache.rewind(0)
        features = []
        for piece in prompt_L.split(self.chunk):
            features.append(self._read(piece, torch.arange(len(piece), device=self.device), None))
            self.cache.commit(range(len(piece)))
        features_LD = torch.cat(features)
        return self._judged(features_LD[-1:], features_LD)

    @torch.inference_mode()
    def score(self, draft: Draft) -> Scores:
        """Score every node in one forward: logits [T, V], features [T, D]."""
        features_TD = self._read(draft.tokens_T, draft.depth_T, draft.ancestors_TT)
        return self._judged(features_TD, features_TD)

    @torch.inference_mode()
    def commit(self, path: Sequence[int]) -> None:
        """Keep these nodes (ascending) of the draft just scored."""
        self.cache.commit(path)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.cache.rewind(length)

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
        self.model.set_attn_implementation("sdpa")
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

    def _judged(self, last_TD: Tensor, features_TD: Tensor) -> Scores:
        """Scores of some features, with the logits behind the last of them."""
        if not isinstance(self.head, NativeLinear):
            return Scores.of(self.head(last_TD), features_TD)
        best = self.head.best(last_TD)
        return Scores(best.outputs_TN, features_TD, best.places_TX[:, 0])

    def _read(self, tokens_T: Tensor, depth_T: Tensor, ancestors_TT: Tensor | None) -> Tensor:
        self.cache.reserve(len(tokens_T))
        view = View(self.cache.length, depth_T, ancestors_TT)
        embedded_TD = self.model.get_input_embeddings()(tokens_T).to(self.dtype)
        if self.native is not None and self.native.decoder is not None:
            features_TD: Tensor = self.native.decoder(embedded_TD, view, self.cache)
            return features_TD
        if self.graphs is not None and ancestors_TT is not None:
            return self.graphs.read(embedded_TD, view, self.cache)
        return self.decoder(
            inputs_embeds=embedded_TD[None],
            position_ids=view.position_T[None],
            use_cache=True,
            falcon_view=view,
            **{self._cache_argument: self.cache},
        ).last_hidden_state[0]
