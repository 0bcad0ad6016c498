"""A student: the network that learns, its draft vocabulary, and the weights that it shares with the target.

Each method has its class (`falcon.py`, `medusa.py`, `draft_model.py`), which defines the loss of a batch, the loss
positions, the evaluation on held-out text and the files that are saved.

Shapes: W draft vocabulary, P depths, V vocabulary, D hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from falcon_cli.core import Drafter
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.csgd import ForwardResult, TargetWeights
from falcon_cli.distill.objective.vocabulary import choose_vocabulary, coverage, number_of_V
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.forward.logits import PLAIN
from falcon_cli.target.load import LoadedTarget
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, save_tree

S = TypeVar("S", bound="Student")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Student(ABC):
    """A drafter in training."""

    recipe: DistillRecipe
    network: Any
    vocabulary_W: Tensor | None
    weights: TargetWeights

    @property
    def k(self) -> int:
        """Number of slots that are learned together."""
        return int(self.network.k)

    @property
    def saved_as(self) -> str:
        """Name of the folder, in the run folder, that the trained network is saved in."""
        return "drafter"

    def with_vocabulary_of(self: S, target: LoadedTarget, train: Sequence[Sample]) -> S:
        """The same student, with the draft vocabulary of these texts where it is drawn from texts."""
        return self

    @abstractmethod
    def loss(self, network: Any, batch: Batch, step: int, glance: float) -> ForwardResult:
        """Losses of one batch.

        Args:
            network: The student's network, maybe wrapped for several processes.
            batch: Texts.
            step: Number of earlier optimizer steps; everything random depends on it and the recipe's seed.
            glance: λ; 0 turns glancing off. Only Falcon glances.
        """

    @abstractmethod
    def loss_positions(self, answer: Sequence[bool]) -> int:
        """Number of loss positions of a text."""

    @abstractmethod
    def ranks(self, texts: Sequence[TextFeatures]) -> Tensor:
        """The target token's rank at each depth of every draft [drafts, P]; `MISSED` where it may not be drafted."""

    def as_drafter(self, target: LoadedTarget, tree: TreeShape) -> Drafter:
        """A drafter with the current weights."""
        return TRAINED[self.recipe.method].drafter(self.snapshot(), target.model, tree, self.vocabulary_W)

    def save(self, folder: Path, target: LoadedTarget, training: dict[str, Any], tree: StoredTree) -> None:
        """Save the trained network and its tree."""
        save_drafter(folder, self.snapshot(), self.vocabulary_W, target, training, method=self.recipe.method)
        save_tree(folder / "tree.json", tree)

    @abstractmethod
    def form(self) -> str:
        """A line that tells the network's form and size."""

    def check_saved(self, target: LoadedTarget) -> None:
        """Put the network's weights into one built anew, as loading does.

        Raises:
            RuntimeError: They do not fit.
        """
        anew = TRAINED[self.recipe.method].network(self.network.recipe, target.model.outline)
        anew.load_state_dict(self.snapshot().state_dict())

    def usage(self, folder: Path) -> str:
        """The options with which `falcon bench` runs it."""
        return f"--method {self.recipe.method} --drafter {folder}"

    def snapshot(self) -> Any:
        """A copy of the network with the current weights, which no longer learns."""
        return deepcopy(self.network).eval().requires_grad_(False)

    def on(self: S, device: torch.device) -> S:
        """The same student on a device."""
        return replace(self, network=self.network.to(device), weights=self.weights.on(device))

    def _size(self) -> str:
        parameters = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        return f"{parameters / 1e6:.2f}M parameters to learn"

    def describe(self, held_out: Sequence[Sample]) -> str:
        """One line: parameters and coverage."""
        text = f"drafter: {self._size()}"
        if self.vocabulary_W is None:
            return text
        fixed, extended = coverage(held_out, self.vocabulary_W)
        return (
            f"{text}, a draft vocabulary of {len(self.vocabulary_W):,} that covers {fixed:.1%} of held-out answers, "
            f"{extended:.1%} with the extra tokens of the text"
        )


def in_training(network: Network, device: torch.device) -> Network:
    """The network on its device in fp32, in training mode, with gradients."""
    return network.to(device, torch.float32).train().requires_grad_(True)


def target_weights(target: LoadedTarget, vocabulary_W: Tensor | None) -> TargetWeights:
    """What a drafter with this draft vocabulary shares with its target."""
    model = target.model
    chosen = slice(None) if vocabulary_W is None else vocabulary_W.to(model.device)
    bias_V: Tensor | None = getattr(model.head, "bias", None)
    return TargetWeights(
        embedding_VD=model.embedding_VD[:].detach().float(),
        head_VD=model.head.weight.detach(),
        head_WD=model.head.weight.detach().float()[chosen].contiguous(),
        number_V=number_of_V(vocabulary_W, model.vocab_size).to(model.device),
        bias_V=None if bias_V is None else bias_V.detach(),
        bias_W=None if bias_V is None else bias_V.detach().float()[chosen],
        form=model.logit_form or PLAIN,
    )


def vocabulary_of(size: int, target: LoadedTarget, train: Sequence[Sample], key: str = "network") -> Tensor | None:
    """The draft vocabulary of a new drafter; None means all tokens.

    Raises:
        FalconError: It would be larger than the target's.
    """
    whole = target.model.vocab_size
    if size > whole:
        raise FalconError(
            f"{key}.draft_vocab_size is {size}, the target's vocabulary {whole}: ask for less, or 0 for all"
        )
    if size in (0, whole):
        return None
    specials = {*target.tokenizer.all_special_ids, *target.stop_ids}
    return choose_vocabulary(train, size, [token for token in specials if token < whole])
