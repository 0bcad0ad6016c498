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
layer is Llama's, of the target's sizes (layer.py).

What a position's output starts from (residual stream and query) is the mixed input of its block's last position, the
newest there is, plus a change made of its own and its slot: so all slots know f(n), x(n+1) from the start. With
`start: own`, the paper's, slot 1 starts from f(n−1), x(n) and has to fetch the rest by attention. Keys and values are
made of each position's own mixed input either way, so they depend on no block.

Chained (default), the hidden state behind slot 2 and later takes in the token drafted before it, by a small gated layer
after the decoder layer: one pass of the network still serves the whole block, but a slot's candidates are then those
after *this* parent, not the same list under all siblings:

    slot 1    f̂(n+1) → candidates a, b            slot 2    f̂(n+2 | a) → candidates after a
                                                            f̂(n+2 | b) → candidates after b

Normalised (default): the embedding is RMS-normalised, what the target's final norm did to each dimension of the feature
is undone, the mixer is a change added to the feature, the output is RMS-normalised with weights that start as the
norm's. Both ends then have their scale from the start, and learning is quicker (docs/training.md). Raw: the paper's.

Shapes: B batch, L positions, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, rms_norm

from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.layer import layer_for
from falcon_cli.drafters.shared.norm import divisor
from falcon_cli.recipe.distill import NetworkRecipe
from falcon_cli.target.outline import TargetOutline

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
        outline: What it takes from the target.
    """

    scale_D: Tensor
    shift_D: Tensor | None

    def __init__(self, recipe: NetworkRecipe, outline: TargetOutline):
        super().__init__()
        self.recipe, self.k = recipe, recipe.k
        hidden = outline.hidden_size
        layer, rotary = layer_for(outline)
        self.rotary = [rotary]  # in a list: not ours to save
        self.mixer: Any
        if recipe.mixer == "linear":
            self.mixer = nn.Linear(2 * hidden, hidden, bias=False)
        else:
            self.mixer = nn.LSTM(2 * hidden, hidden, num_layers=2, batch_first=True)
        self.layer = layer
        if recipe.start == "block":
            self.own = nn.Linear(hidden, hidden, bias=False)
            self.slot_KD = nn.Parameter(torch.zeros(self.k, hidden))
        if recipe.chained and self.k > 1:
            self.chain = nn.Sequential(
                nn.Linear(2 * hidden, 2 * hidden, bias=False), nn.GLU(), nn.Linear(hidden, hidden)
            )
        self.epsilon = outline.norm.epsilon
        self.norm_D: nn.Parameter | None = None
        self.bias_D: nn.Parameter | None = None
        shifted = recipe.normalise and outline.norm.shift_D is not None
        if recipe.normalise:
            self.norm_D = nn.Parameter(torch.ones(hidden))
            self.register_buffer("scale_D", torch.ones(hidden))
            self.bias_D = nn.Parameter(torch.zeros(hidden)) if shifted else None
        self.register_buffer("shift_D", torch.zeros(hidden) if shifted else None)
        self.attend_by("sdpa")

    @torch.no_grad()
    def initialise(self, outline: TargetOutline, generator: torch.Generator) -> None:
        """Random weights, and with `normalise` what can be borrowed from the target."""
        for parameter in self.parameters():
            bound = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        # Random weights first, all from one generator: a seed gives the same drafter, whatever is borrowed later.
        for name, parameter in self.layer.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
        if self.recipe.start == "block":
            self.own.weight.mul_(_SMALL)
            self.slot_KD.zero_()
        if self.chained:
            for parameter in self.chain[-1].parameters():
                parameter.zero_()
        if self.norm_D is not None:
            self._borrow(outline, self.norm_D)
            if isinstance(self.mixer, nn.Linear):
                self.mixer.weight.mul_(_SMALL)

    def _borrow(self, outline: TargetOutline, norm_D: nn.Parameter) -> None:
        """Start with the target's final norm, and with its last layer if that is Llama-like."""
        norm, last = outline.norm, outline.llama_layer
        norm_D.copy_(norm.scale_D)
        self.scale_D.copy_(divisor(norm.scale_D))
        if self.bias_D is not None and self.shift_D is not None and norm.shift_D is not None:
            self.bias_D.copy_(norm.shift_D)
            self.shift_D.copy_(norm.shift_D)
        if last is None:
            self.layer.soften(_SMALL)
        else:
            self.layer.copy(last, _SMALL)

    def attend_by(self, implementation: str) -> None:
        """Choose the attention of the decoder layer by transformers' name for it."""
        self.layer.attend_by(implementation)

    @property
    def chained(self) -> bool:
        """Whether later slots read the token before theirs."""
        return self.recipe.chained and self.k > 1

    def forward(
        self,
        embedded_BLD: Tensor,
        features_BLD: Tensor,
        blocks: Blocks,
        before_BLD: Tensor,
        wanted_BL: Tensor | None = None,
    ) -> Tensor:
        """Predicted features of whole texts from position 0 on: [B, L, D], or [M, D] at the wanted positions.

        Args:
            embedded_BLD: Embeddings of the input tokens.
            features_BLD: Input features.
            blocks: Their blocks. Inputs of several passes may stand one behind the other along L (streams); an LSTM
                along time knows one only.
            before_BLD: At position i, the embedding of x(i+k): the token before the one that i predicts.
            wanted_BL: Boolean; the positions whose outputs are asked for, None for all.
        """
        mixed = self.mix(embedded_BLD, features_BLD)
        hidden = self.attend(mixed.hidden_BLD, blocks, attention_mask=blocks.mask_BLL, wanted_BL=wanted_BL)
        if wanted_BL is None:
            return self.finish(hidden, before_BLD, blocks.later_BL)
        return self.finish(hidden, before_BLD[wanted_BL], blocks.later_BL[wanted_BL])

    def mix(self, embedded_BLD: Tensor, features_BLD: Tensor, state: LstmState | None = None) -> Mixed:
        """Make one vector of each embedding and feature; `state` goes on from earlier positions (mixer time)."""
        if self.recipe.normalise:
            embedded_BLD = rms_norm(embedded_BLD, embedded_BLD.shape[-1:], eps=1e-6)
            features_BLD = (features_BLD if self.shift_D is None else features_BLD - self.shift_D) / self.scale_D
        # The mixer is a change added to the feature (normalised), or the whole of it (the paper's raw form).
        both = torch.cat([embedded_BLD, features_BLD], -1)
        mixed, state = self._mixer(both, state)
        return Mixed(features_BLD + mixed if self.recipe.normalise else mixed, state)

    def attend(self, mixed_BLD: Tensor, blocks: Blocks, **attention: Any) -> Tensor:
        """Hidden states behind the outputs; `finish` makes features of them.

        Args:
            mixed_BLD: What `mix` made.
            blocks: Each row's position, block and slot.
            attention: For the decoder layer: a mask, or cache and view.
        """
        rotary = self.rotary[0](mixed_BLD, blocks.position_BL)
        start_BLD = self._start(mixed_BLD, blocks)
        hidden_BLD: Tensor = self.layer(start_BLD, context_BLD=mixed_BLD, position_embeddings=rotary, **attention)
        return hidden_BLD

    def finish(self, hidden: Tensor, before: Tensor | None = None, later: Tensor | None = None) -> Tensor:
        """Predicted features [..., D].

        Args:
            hidden: [..., D].
            before: Embeddings [..., D] of the tokens before the predicted ones; None for first slots.
            later: Boolean [...], the outputs of later slots; None when all are.
        """
        if self.chained and before is not None:
            size = hidden.shape[-1:]
            # Slot s > 1 takes in the token drafted in slot s − 1; the pass itself has run once for all slots.
            change = self.chain(torch.cat([rms_norm(hidden, size, eps=1e-6), rms_norm(before, size, eps=1e-6)], -1))
            hidden = hidden + (change if later is None else change * later[..., None])
        if self.norm_D is None:
            return hidden
        made = rms_norm(hidden, hidden.shape[-1:], self.norm_D, self.epsilon)
        return made if self.bias_D is None else made + self.bias_D

    def _start(self, mixed_BLD: Tensor, blocks: Blocks) -> Tensor:
        """What each row's output starts from."""
        if self.recipe.start == "own":
            return mixed_BLD
        # All slots of a block start from its newest input, f(n) and x(n+1): the earlier rows need not fetch it.
        newest_BLD = mixed_BLD.gather(1, blocks.last_BL[..., None].expand_as(mixed_BLD))
        # `embedding`, because the gradient of an indexed parameter is added up by threads in any order
        return newest_BLD + self.own(mixed_BLD) + embedding(blocks.slot_BL - 1, self.slot_KD)

    def _mixer(self, both_BLE: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState | None]:
        if self.recipe.mixer == "linear":
            return self.mixer(both_BLE), None
        if self.recipe.mixer == "time":
            return self.mixer(both_BLE, state)
        batch, length, width = both_BLE.shape
        return self.mixer(both_BLE.reshape(-1, 1, width))[0].reshape(batch, length, -1), None
