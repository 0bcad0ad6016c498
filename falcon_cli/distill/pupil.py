"""The drafter that learns: its network, its draft vocabulary, and what it shares with the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from falcon_cli.console import say
from falcon_cli.distill.batches import generator_of
from falcon_cli.distill.lora import adapt, merged
from falcon_cli.distill.sample import Sample
from falcon_cli.distill.step import Frozen
from falcon_cli.distill.vocabulary import choose_vocabulary, coverage, number_of_V
from falcon_cli.drafter.checkpoint import load_drafter
from falcon_cli.drafter.network import DrafterNetwork
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DistillRecipe, NetworkRecipe
from falcon_cli.target.load import LoadedTarget


@dataclass(frozen=True)
class Pupil:
    """A drafter in training."""

    network: DrafterNetwork
    vocabulary_W: Tensor | None
    frozen: Frozen
    lora: bool

    @classmethod
    def of(cls, recipe: DistillRecipe, target: LoadedTarget, train: Sequence[Sample]) -> "Pupil":
        """A new drafter, or one to go on from.

        Raises:
            FalconError: `init_from` names a drafter that does not fit the target or the recipe.
        """
        model = target.model
        if recipe.init_from is not None:
            network, vocabulary_W = _known(recipe, target)
        else:
            network = DrafterNetwork(recipe.network, model.decoder)
            network.initialise(model.decoder, generator_of(recipe.seed, "weights"))
            vocabulary_W = _vocabulary(recipe.network, target, train)
        network = network.to(model.device, torch.float32).train().requires_grad_(True)
        if recipe.lora is not None:
            network = adapt(network, recipe.lora, generator_of(recipe.seed, "lora"))
        head_VD = model.head.weight.detach().float()
        frozen = Frozen(
            embedding_VD=model.model.get_input_embeddings().weight.detach().float(),
            head_WD=head_VD if vocabulary_W is None else head_VD[vocabulary_W.to(model.device)].contiguous(),
            number_V=number_of_V(vocabulary_W, model.vocab_size).to(model.device),
        )
        return cls(network, vocabulary_W, frozen, recipe.lora is not None)

    def on(self, device: torch.device) -> "Pupil":
        """The same on a device."""
        frozen = Frozen(*(held.to(device) for held in vars(self.frozen).values()))
        return replace(self, network=self.network.to(device), frozen=frozen)

    def grown(self) -> DrafterNetwork:
        """A copy of the network as it is now, low-rank changes taken in."""
        return merged(self.network).eval().requires_grad_(False)

    def told(self, held_out: Sequence[Sample]) -> str:
        """One line: parameters and coverage."""
        parameters = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        text = f"drafter: {parameters / 1e6:.2f}M parameters to learn"
        if self.vocabulary_W is None:
            return text
        share = coverage(held_out, self.vocabulary_W)
        return f"{text}, a draft vocabulary of {len(self.vocabulary_W):,} that covers {share:.1%} of held-out answers"


def _vocabulary(recipe: NetworkRecipe, target: LoadedTarget, train: Sequence[Sample]) -> Tensor | None:
    size, whole = recipe.draft_vocab_size, target.model.vocab_size
    if size > whole:
        raise FalconError(
            f"network.draft_vocab_size is {size}, the target's vocabulary {whole}: ask for less, or 0 for all"
        )
    if size in (0, whole):
        return None
    specials = {*target.tokenizer.all_special_ids, *target.stop_ids}
    return choose_vocabulary(train, size, [token for token in specials if token < whole])


def _known(recipe: DistillRecipe, target: LoadedTarget) -> tuple[DrafterNetwork, Tensor | None]:
    """The drafter to go on from, which must have the form that the recipe asks for."""
    saved = load_drafter(Path(str(recipe.init_from)), target)
    mine, theirs = vars(recipe.network), vars(saved.network.recipe)
    if differing := [f"network.{key}={theirs[key]}" for key in mine if mine[key] != theirs[key]]:
        raise FalconError(f"init_from {recipe.init_from} has another form than the recipe: set {', '.join(differing)}")
    say(f"going on from {recipe.init_from}")
    return saved.network, saved.vocabulary_W
