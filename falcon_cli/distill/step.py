"""One training step's forward: glance, predict, compare (Falcon, section 3.2: CSGD).

    1  predict without gradient; count the positions where the drafter's token is not the target's
    2  glance: show the drafter the answer at some of them (glancing.py)
    3  predict again, with gradient
    4  the loss, at answer positions that were not glanced at

Position i is held against the target's feature at i + k and its view of the token that follows there.
Shapes: B batch, L positions, D hidden size, M loss-bearing positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from falcon_cli.distill.batches import Batch, generator_of, learning_BL
from falcon_cli.distill.glancing import glanced_L, one_block_ahead
from falcon_cli.distill.losses import Losses, Teaching, best_tokens, losses
from falcon_cli.drafter.masks import block_L, relaxed_causal_BLL, slot_L
from falcon_cli.recipe.distill import DistillRecipe

Network = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""`DrafterNetwork.forward`: (embedded, features, mask, embedded tokens before, wanted) → predicted features [M, D]."""


@dataclass(frozen=True)
class Frozen:
    """What the drafter shares with its target."""

    embedding_VD: Tensor
    head_WD: Tensor
    """Rows of the LM head for the draft vocabulary."""
    number_V: Tensor
    """Token id → its number in the draft vocabulary, or −1."""


@dataclass(frozen=True)
class Outcome:
    """What one forward was worth."""

    losses: Losses
    slot_M: Tensor
    """Slot of each loss-bearing position, 1..k."""
    glanced: int
    wrong: int
    """Positions at which the first prediction was wrong."""


def train_forward(
    network: Network, frozen: Frozen, batch: Batch, recipe: DistillRecipe, step: int, glance: float
) -> Outcome:
    """Losses of one batch; `glance` is λ, and 0 leaves the first prediction out."""
    k = recipe.network.k
    length = batch.tokens_BL.shape[1]
    device = batch.tokens_BL.device
    phase = int(torch.randint(k, (), generator=generator_of(recipe.seed, "phase", step)))
    mask_BLL = relaxed_causal_BLL(batch.length_B, length, k, phase)
    slots = slot_L(length, k, phase, device)
    learn_BL = learning_BL(batch, k)
    noisy = replace(batch, features_BLD=_with_noise(batch, recipe, step))
    glanced_BL, wrong = torch.zeros_like(learn_BL), 0
    if glance > 0 and k > 1:
        wrong_BL = _wrong(network, frozen, noisy, learn_BL, mask_BLL, k)
        wrong = int(wrong_BL.sum())
        blocks = block_L(length, k, phase, device)
        rows = [
            glanced_L(wrong_BL[row], blocks, slots, k, int(batch.length_B[row]), glance,
                      generator_of(recipe.seed, "glance", step, number))
            for row, number in enumerate(batch.numbers)
        ]  # fmt: skip
        glanced_BL = torch.stack(rows)
    tokens_BL = one_block_ahead(noisy.tokens_BL, glanced_BL, k)
    features_BLD = one_block_ahead(noisy.features_BLD, glanced_BL, k)
    before_BLD = tokens_before(frozen, batch.tokens_BL, k)
    bearing_BL = learn_BL & ~glanced_BL
    predicted_MD = network(frozen.embedding_VD[tokens_BL], features_BLD, mask_BLL, before_BLD, bearing_BL)
    told = losses(predicted_MD, frozen.head_WD, teaching(batch, frozen, bearing_BL, k), recipe.loss)
    return Outcome(told, slots.expand_as(learn_BL)[bearing_BL], int(glanced_BL.sum()), wrong)


def teaching(batch: Batch, frozen: Frozen, bearing_BL: Tensor, k: int) -> Teaching:
    """What the target says k positions on from each position of `bearing_BL`."""
    row_M, place_M = bearing_BL.nonzero(as_tuple=True)
    place_M = place_M + k
    return Teaching(
        features_MD=batch.features_BLD[row_M, place_M],
        ids_MC=frozen.number_V[batch.top_ids_BLC[row_M, place_M]],
        logprobs_MC=batch.top_logprobs_BLC[row_M, place_M],
    )


@torch.no_grad()
def _wrong(network: Network, frozen: Frozen, batch: Batch, learn_BL: Tensor, mask_BLL: Tensor, k: int) -> Tensor:
    """Boolean [B, L]: loss-bearing positions where the drafter's best token is not the target's."""
    embedded_BLD = frozen.embedding_VD[batch.tokens_BL]
    before_BLD = tokens_before(frozen, batch.tokens_BL, k)
    predicted_MD = network(embedded_BLD, batch.features_BLD, mask_BLL, before_BLD, learn_BL)
    best_M = best_tokens(predicted_MD, frozen.head_WD)
    wrong_BL = learn_BL.clone()
    wrong_BL[learn_BL] = best_M != teaching(batch, frozen, learn_BL, k).ids_MC[:, 0]
    return wrong_BL


def tokens_before(frozen: Frozen, tokens_BL: Tensor, k: int) -> Tensor:
    """At position i the embedding of x(i+k) [B, L, D], the token before the one that i predicts; the last rows wrap."""
    return frozen.embedding_VD[tokens_BL.roll(1 - k, 1)]


def _with_noise(batch: Batch, recipe: DistillRecipe, step: int) -> Tensor:
    """The input features with noise, each text's drawn for itself."""
    if recipe.noise == 0:
        return batch.features_BLD
    rows = []
    for row, number in enumerate(batch.numbers):
        own = int(batch.length_B[row])
        draw = generator_of(recipe.seed, "noise", step, number)
        noise_LD = torch.zeros(batch.features_BLD.shape[1:])
        size = (own, noise_LD.shape[1])
        if recipe.noise_kind == "uniform":
            noise_LD[:own] = torch.rand(size, generator=draw).mul_(2).sub_(1)
        else:
            noise_LD[:own] = torch.randn(size, generator=draw)
        rows.append(noise_LD)
    return batch.features_BLD + recipe.noise * torch.stack(rows).to(batch.features_BLD)
