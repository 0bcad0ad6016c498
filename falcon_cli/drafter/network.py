"""The Falcon drafter's network: about two Transformer layers that draft k tokens a pass (Falcon, section 3.1).

Alignment, for k = 2. The target has read x1..xn, so the features f1..fn exist (f: last hidden state after the final
norm, what the LM head reads), and x(n+1) is known but not yet read:

    position               ...   n-1          n
    input (feature, token)       f(n-1),x(n)  f(n),x(n+1)     the token is one step ahead of the feature
    output, a feature            f(n+1)       f(n+2)          position i predicts f(i+k)
    LM head gives the token      x(n+2)       x(n+3)          x(i+k+1)

From input to output:

    embedding ─┐
               ├─ 2D ── mixer ── D ── decoder layer ── D      embedding and head are the target's own, frozen
    feature  ──┘                      relaxed causal

The mixer is a two-layer LSTM along the positions (`time`), the same LSTM applied to each position by itself
(`position`, as in the authors' code, whose LSTM runs along the batch), or one linear layer (`linear`). The decoder
layer is of the target's own class, with its rotary embedding and grouped heads.

Normalised (default): the embedding is RMS-normalised, the feature divided by the target's final-norm weight, the mixer
is a change added to the feature, the output is RMS-normalised with a weight that starts as the target's. Both ends
then have their scale from the start, and learning is several times quicker (docs/distill.md). Raw: the paper's form.

Shapes: B batch, L positions, D hidden size, C mixer layers.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from falcon_cli.recipe.distill import NetworkRecipe

LstmState = tuple[Tensor, Tensor]
"""Hidden and cell state, [C, B, D] each."""

_SMALL = 0.1
"""Factor on what the copied decoder layer writes, so that it starts as a small change."""


@dataclass(frozen=True)
class Mixed:
    """What the mixer makes of its inputs, and its state after the last of them."""

    hidden_BLD: Tensor
    state: LstmState | None


class DrafterNetwork(nn.Module):
    """The trainable part of the drafter.

    Args:
        recipe: Its form.
        decoder: The target's decoder (its layers' class, configuration, final norm and rotary embedding are taken).
    """

    scale_D: Tensor

    def __init__(self, recipe: NetworkRecipe, decoder: Any):  # transformers' models are untyped
        super().__init__()
        self.recipe, self.k = recipe, recipe.k
        last = decoder.layers[-1]
        config = deepcopy(decoder.config)
        hidden = config.hidden_size
        self.rotary = [decoder.rotary_emb]  # in a list: the target's, not ours to save
        self.mixer: Any
        if recipe.mixer == "linear":
            self.mixer = nn.Linear(2 * hidden, hidden, bias=False)
        else:
            self.mixer = nn.LSTM(2 * hidden, hidden, num_layers=2, batch_first=True)
        self.layer = _one_layer(type(last), config)
        self.epsilon: float = getattr(config, "rms_norm_eps", 1e-6)
        self.norm_D: nn.Parameter | None = None
        if recipe.normalise:
            self.norm_D = nn.Parameter(torch.ones(hidden))
            self.register_buffer("scale_D", torch.ones(hidden))
        self.attend_by("sdpa")

    @torch.no_grad()
    def initialise(self, decoder: Any, generator: torch.Generator) -> None:
        """Random weights, and with `normalise` what can be borrowed from the target."""
        for parameter in self.parameters():
            bound = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        for name, parameter in self.layer.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
        if self.norm_D is None:
            return
        weight_D: Tensor = decoder.norm.weight.detach().float()
        self.norm_D.copy_(weight_D)
        self.scale_D.copy_(weight_D.sign() * weight_D.abs().clamp_min(1e-2) + (weight_D == 0) * 1e-2)
        self.layer.load_state_dict(decoder.layers[-1].state_dict())
        for output in (self.layer.self_attn.o_proj, self.layer.mlp.down_proj):
            output.weight.mul_(_SMALL)
        if isinstance(self.mixer, nn.Linear):
            self.mixer.weight.mul_(_SMALL)

    def attend_by(self, implementation: str) -> None:
        """Choose the attention of the decoder layer by transformers' name for it."""
        self.layer.self_attn.config._attn_implementation = implementation

    def forward(self, embedded_BLD: Tensor, features_BLD: Tensor, mask_BLL: Tensor) -> Tensor:
        """Predicted features [B, L, D] of whole texts from position 0 on; `mask_BLL` is boolean [B, 1, L, L]."""
        mixed = self.mix(embedded_BLD, features_BLD)
        position_BL = torch.arange(embedded_BLD.shape[1], device=embedded_BLD.device)[None]
        return self.attend(mixed.hidden_BLD, position_BL, attention_mask=mask_BLL)

    def mix(self, embedded_BLD: Tensor, features_BLD: Tensor, state: LstmState | None = None) -> Mixed:
        """Make one vector of each embedding and feature; `state` goes on from earlier positions (mixer time)."""
        if self.recipe.normalise:
            embedded_BLD = rms_norm(embedded_BLD, embedded_BLD.shape[-1:], eps=1e-6)
            features_BLD = features_BLD / self.scale_D
        both = torch.cat([embedded_BLD, features_BLD], -1)
        mixed, state = self._mixer(both, state)
        return Mixed(features_BLD + mixed if self.recipe.normalise else mixed, state)

    def attend(self, mixed_BLD: Tensor, position_BL: Tensor, **attention: Any) -> Tensor:
        """Predicted features of mixed inputs; `attention` goes to the decoder layer (mask, or cache and view)."""
        hidden_BLD = self.layer(
            mixed_BLD,
            position_ids=position_BL,
            position_embeddings=self.rotary[0](mixed_BLD, position_BL),
            **attention,
        )
        if self.norm_D is None:
            return hidden_BLD
        return rms_norm(hidden_BLD, hidden_BLD.shape[-1:], self.norm_D, self.epsilon)

    def _mixer(self, both_BLE: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState | None]:
        if self.recipe.mixer == "linear":
            return self.mixer(both_BLE), None
        if self.recipe.mixer == "time":
            return self.mixer(both_BLE, state)
        batch, length, width = both_BLE.shape
        return self.mixer(both_BLE.reshape(-1, 1, width))[0].reshape(batch, length, -1), None


def _one_layer(kind: Callable[..., nn.Module], config: Any) -> Any:
    """A decoder layer of the target's class and sizes, uninitialised, with a configuration of its own.

    A sliding window is left out: relaxed causal attention, learned without one, must not meet one when drafting.
    """
    config.sliding_window = None
    return kind(config, layer_idx=0)
