"""How well the drafter predicts held-out text, pass by pass and slot by slot.

At every block of a text, a draft is assumed to have followed the text so far: depth d = (p − 1)·k + s is slot s of pass
p, and later passes read the drafter's own features. The rank at a depth is the place of the target's next token among
the drafter's choices, from 0. A tree's node with path (r1, …, rd) is reached where the ranks down to depth d are
exactly these. So the share of drafts that begin with a path is what its node adds to τ, and the most frequent paths
make the best tree.

Shapes: B batch, L positions, P depths, M loss positions, D hidden size.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from falcon_cli.distill.features.batches import Batch, collate, loss_positions_BL
from falcon_cli.distill.features.extract import TextFeatures, padded_batches
from falcon_cli.distill.objective.csgd import TargetWeights, tokens_before
from falcon_cli.distill.objective.losses import TeacherSignal
from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.drafters.falcon.unroll import unrolled

MISSED = 1 << 30
"""Rank of a token that may not be drafted: after all others."""

_TOKENS = 2048


@dataclass(frozen=True)
class Accuracy:
    """Shares of correct predictions, by pass and slot."""

    top1: list[list[float]]
    top5: list[list[float]]

    def line(self) -> dict[str, list[list[float]]]:
        """The fields of a line of `held_out.jsonl`."""
        return {"top1": self.top1, "top5": self.top5}


@torch.no_grad()
def draft_ranks(network: DrafterNetwork, weights: TargetWeights, texts: Sequence[TextFeatures], passes: int) -> Tensor:
    """The rank of the target's token at each depth of every draft [drafts, P].

    Only drafts whose every depth falls on an answer token count.
    """
    return torch.cat([_batch_ranks(network, weights, batch, passes) for batch in read_in_batches(texts, weights)])


def read_in_batches(texts: Sequence[TextFeatures], weights: TargetWeights) -> Iterator[Batch]:
    """Texts in batches of bounded size, shortest text first."""
    lengths = [len(text.tokens_L) for text in texts]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    device, dtype = weights.head_WD.device, weights.head_WD.dtype
    for numbers in padded_batches(order, lengths, _TOKENS):
        yield collate(numbers, [texts[number] for number in numbers], device, dtype)


def rank_M(features_MD: Tensor, signal: TeacherSignal) -> Tensor:
    """How many tokens score higher than the target's best one [M]."""
    ranks_M = torch.empty(len(features_MD), dtype=torch.long, device=features_MD.device)
    for rows, logits in signal.logits(features_MD):
        best = signal.ids_MZ[rows, 0]
        # rank = |{w : z[w] > z[best]}|, so the drafter's first choice has rank 0.
        best_logits = logits.gather(-1, best.clamp_min(0)[:, None])
        ranks_M[rows] = torch.where(best >= 0, (logits > best_logits).sum(-1), MISSED)
    return ranks_M


def accuracy(ranks: Tensor, k: int) -> Accuracy:
    """Top-1 and top-5 by pass and slot."""

    def table(width: int) -> list[list[float]]:
        shares = (ranks < width).double().mean(0).tolist() if len(ranks) else [0.0] * ranks.shape[1]
        return [[round(share, 4) for share in shares[begin : begin + k]] for begin in range(0, len(shares), k)]

    return Accuracy(table(1), table(5))


def _batch_ranks(network: DrafterNetwork, weights: TargetWeights, batch: Batch, passes: int) -> Tensor:
    k = network.k
    length = batch.tokens_BL.shape[1] // k * k  # whole blocks only
    features_BLD = batch.features_BLD[:, :length]
    embedded_BLD = weights.embedding_VD[batch.tokens_BL[:, :length]]
    before_BLD = tokens_before(weights, batch.tokens_BL, k)[:, :length]
    predicted = unrolled(network, embedded_BLD, features_BLD, before_BLD, batch.length_B, passes)
    loss_BL = loss_positions_BL(batch, k)[:, :length]
    signal = weights.signal(batch, weights.extend(batch), loss_BL, k)
    ranks = torch.stack([_ranks(signal, predicted_BLD, loss_BL) for predicted_BLD in predicted])
    blocks = length // k
    if blocks < passes:
        return torch.zeros(0, passes * k, dtype=torch.long, device=ranks.device)
    # Draft b starts at block b, and its pass p predicts from block b + p − 1 (p from 1). So a draft's ranks are the
    # passes' tables, each one block later than the one before, side by side.
    drafts = blocks - passes + 1
    by_block = ranks.reshape(passes, len(batch.numbers), blocks, k)
    table = torch.cat([by_block[number, :, number : number + drafts] for number in range(passes)], -1)
    draft_ranks = table.reshape(-1, passes * k)
    return draft_ranks[(draft_ranks >= 0).all(-1)]  # −1 marks a depth that is not an answer's


def _ranks(signal: TeacherSignal, predicted_BLD: Tensor, loss_BL: Tensor) -> Tensor:
    """Rank of the target's best token [B, L]; −1 where a position bears no loss."""
    ranks_BL = torch.full(loss_BL.shape, -1, dtype=torch.long, device=loss_BL.device)
    ranks_BL[loss_BL] = rank_M(predicted_BLD[loss_BL], signal)
    return ranks_BL


def best_paths(ranks: Tensor, nodes: int, width: int = 32) -> list[tuple[int, ...]]:
    """The rank paths that most drafts begin with: the tree of `nodes` nodes (root included) with the highest τ here.

    No rank reaches `width`. A path never comes before its parent, which begins at least as many drafts.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    for row in ranks.tolist():
        for depth in range(1, len(row) + 1):
            if row[depth - 1] >= width:
                break
            counts[tuple(row[:depth])] += 1
    # A path's count is at most its parent's, and ties go to the shorter path: any prefix of this order is a tree.
    order = sorted(counts, key=lambda path: (-counts[path], len(path), path))
    return order[: nodes - 1]


def expected_accepted(ranks: Tensor, paths: Sequence[tuple[int, ...]]) -> float:
    """A tree's predicted τ: the mean number of nodes that a draft of these ranks reaches."""
    nodes = set(paths)
    reached = sum(tuple(row[:depth]) in nodes for row in ranks.tolist() for depth in range(1, len(row) + 1))
    return reached / max(1, len(ranks))
