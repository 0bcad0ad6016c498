"""The student for Medusa's heads: all read the same feature, and each learns a token further ahead.

Position i holds the target's feature f(i); head s learns the token i + s + 1, whose distribution the target gives at
i + s. Later heads have a harder task and count less (Medusa, section 2.2.1: λ_s = 0.8^s). The loss is Falcon's, with
the target's distribution instead of the paper's tokens alone.

Shapes: B batch, L positions, M loss positions of any head, K heads (slots of one block), D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch, loss_positions_BL
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.accuracy import rank_M, read_in_batches
from falcon_cli.distill.objective.csgd import ForwardResult, summed, with_noise
from falcon_cli.distill.objective.losses import losses
from falcon_cli.distill.students.student import Student, in_training, target_weights, vocabulary_of
from falcon_cli.drafters.rivals.medusa import MedusaNetwork
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import LoadedTarget

DECAY = 0.8
"""Weight of each head's loss relative to the previous head's."""


@dataclass(frozen=True)
class MedusaStudent(Student):
    """Medusa's heads."""

    @classmethod
    def of(cls, recipe: DistillRecipe, target: LoadedTarget, train: Sequence[Sample]) -> "MedusaStudent":
        """New heads, which initially predict what the LM head predicts."""
        network = MedusaNetwork(recipe.medusa, target.model.outline)
        network.initialise(target.model.outline)
        vocabulary_W = vocabulary_of(recipe.medusa.draft_vocab_size, target, train, "medusa")
        network = in_training(network, target.model.device)
        return cls(recipe, network, vocabulary_W, target_weights(target, vocabulary_W))

    def with_vocabulary_of(self, target: LoadedTarget, train: Sequence[Sample]) -> "MedusaStudent":
        """See `Student`."""
        vocabulary_W = vocabulary_of(self.recipe.medusa.draft_vocab_size, target, train, "medusa")
        return replace(self, vocabulary_W=vocabulary_W, weights=target_weights(target, vocabulary_W))

    def loss(self, network: Any, batch: Batch, step: int, glance: float) -> ForwardResult:
        """See `Student`."""
        loss_positions = [loss_positions_BL(batch, head) for head in range(1, self.k + 1)]
        any_BL = torch.stack(loss_positions).any(0)
        predicted_MKD = network(with_noise(batch, self.recipe, step)[any_BL])
        vocabulary, results = self.weights.extend(batch), []
        for head, positions_BL in enumerate(loss_positions, start=1):
            signal = self.weights.signal(batch, vocabulary, positions_BL, head)
            parts = losses(predicted_MKD[positions_BL[any_BL], head - 1], signal, self.recipe.loss)
            slot_M = torch.full_like(parts.right_M, head, dtype=torch.long)
            results.append(ForwardResult(parts, slot_M, glanced=0, wrong=0))
        return summed(results, [DECAY**place for place in range(self.k)])

    def form(self) -> str:
        """See `Student`."""
        return f"student: {self._size()}, {self.k} heads, {self.network.scale_D.shape[0]:,} wide"

    def loss_positions(self, answer: Sequence[bool]) -> int:
        """See `Student`: the sum over all heads."""
        return sum(sum(answer[head + 1 :]) for head in range(1, self.k + 1))

    @torch.no_grad()
    def ranks(self, texts: Sequence[TextFeatures]) -> Tensor:
        """See `Student`: a draft at every position whose heads all predict answer tokens."""
        network, parts = self.snapshot(), []
        for batch in read_in_batches(texts, self.weights):
            whole_BL = torch.stack([loss_positions_BL(batch, head) for head in range(1, self.k + 1)]).all(0)
            predicted_MKD = network(batch.features_BLD[whole_BL])
            vocabulary, ranks = self.weights.extend(batch), []
            for head in range(1, self.k + 1):
                ranks.append(rank_M(predicted_MKD[:, head - 1], self.weights.signal(batch, vocabulary, whole_BL, head)))
            parts.append(torch.stack(ranks, 1))
        return torch.cat(parts)
