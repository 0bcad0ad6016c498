"""The student for Falcon's network (trained by `objective/csgd.py`), and for EAGLE's, which is the same with k = 1.

Shapes: P depths, W draft vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from falcon_cli.console import say
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch, generator_of
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.accuracy import draft_ranks
from falcon_cli.distill.objective.csgd import ForwardResult, train_forward
from falcon_cli.distill.students.lora import adapt, merged
from falcon_cli.distill.students.student import Student, in_training, target_weights, vocabulary_of
from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.drafters.saved.checkpoint import load_drafter
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import LoadedTarget

_DEPTH = 8
"""Deepest level evaluated on held-out text, as in the paper's tree for k = 2."""

_COMMON = ("mixer", "normalise", "draft_vocab_size")
"""Network settings that an initial drafter must share with the recipe."""


@dataclass(frozen=True)
class FalconStudent(Student):
    """Falcon's network, or EAGLE's."""

    @classmethod
    def of(cls, recipe: DistillRecipe, target: LoadedTarget, train: Sequence[Sample]) -> "FalconStudent":
        """A new drafter, or an earlier one to continue from.

        Raises:
            FalconError: `init_from` names a drafter that does not fit the target, or whose mixer, normalisation or
                draft vocabulary differs from the recipe's.
        """
        model = target.model
        if recipe.init_from is not None:
            network, vocabulary_W = _initial(recipe, target)
        else:
            network = DrafterNetwork(recipe.network, model.outline)
            network.initialise(model.outline, generator_of(recipe.seed, "weights"))
            vocabulary_W = vocabulary_of(recipe.network.draft_vocab_size, target, train)
        network = in_training(network, model.device)
        if recipe.lora is not None:
            network = adapt(network, recipe.lora, generator_of(recipe.seed, "lora"))
        return cls(recipe, network, vocabulary_W, target_weights(target, vocabulary_W))

    def with_vocabulary_of(self, target: LoadedTarget, train: Sequence[Sample]) -> "FalconStudent":
        """See `Student`; a drafter that is continued keeps its own."""
        if self.recipe.init_from is not None:
            return self
        vocabulary_W = vocabulary_of(self.recipe.network.draft_vocab_size, target, train)
        return replace(self, vocabulary_W=vocabulary_W, weights=target_weights(target, vocabulary_W))

    def loss(self, network: Any, batch: Batch, step: int, glance: float) -> ForwardResult:
        """See `Student`."""
        return train_forward(network, self.weights, batch, self.recipe, step, glance)

    def loss_positions(self, answer: Sequence[bool]) -> int:
        """See `Student`: position i learns the token i + k + 1, so no position learns the first k + 1 tokens."""
        return sum(answer[self.k + 1 :]) * (self.k if self.recipe.phases == "all" else 1)

    def ranks(self, texts: Sequence[TextFeatures]) -> Tensor:
        """See `Student`."""
        return draft_ranks(self.snapshot(), self.weights, texts, passes=-(-_DEPTH // self.k))

    def form(self) -> str:
        """See `Student`."""
        layer, (heads, size) = self.network.layer, self.network.layer.kv_shape
        config = layer.self_attn.config
        return (
            f"student: {self._size()}, k = {self.k}; a {layer.family.__name__} {config.hidden_size:,} wide, "
            f"{config.num_attention_heads} heads of {size}, {heads} kv heads, MLP {config.intermediate_size:,} wide"
        )

    def snapshot(self) -> DrafterNetwork:
        """See `Student`: low-rank changes are merged."""
        return merged(self.network).eval().requires_grad_(False)


def _initial(recipe: DistillRecipe, target: LoadedTarget) -> tuple[Any, Tensor | None]:
    """The drafter to continue from; if the recipe has another k, start or chain, the weights that both forms share.

    So EAGLE can continue from a Falcon drafter, and a Falcon drafter from EAGLE's or from one with another k.
    """
    saved = load_drafter(Path(str(recipe.init_from)), target)
    if not isinstance(saved.network, DrafterNetwork):
        raise FalconError(
            f"init_from {recipe.init_from} holds {TRAINED[saved.method].summary}: name a {recipe.method} drafter"
        )
    wanted, saved_settings = vars(recipe.network), vars(saved.network.recipe)
    if differing := [f"network.{key}={saved_settings[key]}" for key in _COMMON if wanted[key] != saved_settings[key]]:
        raise FalconError(f"init_from {recipe.init_from} has another form than the recipe: set {', '.join(differing)}")
    network = DrafterNetwork(recipe.network, target.model.outline)
    network.initialise(target.model.outline, generator_of(recipe.seed, "weights"))
    fresh = take_over(network, saved.network)
    say(f"continuing from {recipe.init_from}" + (f"; newly initialised: {', '.join(fresh)}" if fresh else ""))
    return network, saved.vocabulary_W


def take_over(network: DrafterNetwork, other: DrafterNetwork) -> list[str]:
    """Copy the weights that fit by name and shape; returns the parts of the network that got none."""
    weights = network.state_dict()
    fitting = {
        name: value
        for name, value in other.state_dict().items()
        if name in weights and weights[name].shape == value.shape
    }
    missing = network.load_state_dict(fitting, strict=False).missing_keys
    return sorted({name.split(".")[0] for name in missing})
