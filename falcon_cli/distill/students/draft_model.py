"""The student for speculative sampling: a draft model made of some of the target's layers, then distilled.

Embedding, LM head and final norm are the target's. Embedding and head stay fixed, so both models share a vocabulary by
construction. The model reads the text alone, without features: position j reads token j and learns the target's
distribution of token j + 1. It is saved as an ordinary transformers folder, which `--draft-model` takes like any other.

Shapes: B batch, L positions, M loss positions, D hidden size.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from falcon_cli.core import Drafter
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import Batch, loss_positions_BL
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.accuracy import rank_M, read_in_batches
from falcon_cli.distill.objective.csgd import ForwardResult
from falcon_cli.distill.objective.losses import losses
from falcon_cli.distill.students.student import Student, target_weights
from falcon_cli.drafters.rivals.sps import SpeculativeSampling, SpsOptions
from falcon_cli.errors import FalconError, first_line
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.sources import atomic_folder
from falcon_cli.target.forward.own import features_of
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import layer_list
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree


class DraftModelNetwork(nn.Module):
    """A causal LM of a few layers, which returns what its LM head reads.

    Args:
        causal: A transformers model.
        by_head: Whether that is something else than its decoder's output.
    """

    k = 1

    def __init__(self, causal: Any, by_head: bool = False):
        super().__init__()
        self.causal, self.by_head = causal, by_head

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Features [B, L, D]."""
        return features_of(self.causal, self.by_head, tokens_BL, use_cache=False)


@dataclass(frozen=True)
class DraftModelStudent(Student):
    """A draft model for speculative sampling."""

    @classmethod
    def of(cls, recipe: DistillRecipe, target: LoadedTarget, train: Sequence[Sample]) -> "DraftModelStudent":
        """A model of some of the target's layers, with the target's weights.

        Raises:
            FalconError: The target has no such layer, or its class cannot be cut.
        """
        causal = shortened(target.model.model, recipe.draft_model.layers).to(target.model.device, torch.float32)
        causal.set_attn_implementation(target.model.own_attention)
        network = DraftModelNetwork(
            causal.eval().requires_grad_(True), target.model.forward.by_head
        )  # eval: no dropout
        for shared in (causal.get_input_embeddings(), causal.get_output_embeddings()):
            shared.requires_grad_(False)
        return cls(recipe, network, None, target_weights(target, None))

    @property
    def saved_as(self) -> str:
        """See `Student`."""
        return "draft-model"

    def loss(self, network: Any, batch: Batch, step: int, glance: float) -> ForwardResult:
        """See `Student`."""
        positions_BL = loss_positions_BL(batch, 0)
        features_MD = network(_inputs(batch))[positions_BL]
        signal = self.weights.signal(batch, self.weights.extend(batch), positions_BL, 0)
        result = losses(features_MD, signal, self.recipe.loss)
        return ForwardResult(result, torch.ones(len(features_MD), dtype=torch.long, device=features_MD.device), 0, 0)

    def loss_positions(self, answer: Sequence[bool]) -> int:
        """See `Student`."""
        return sum(answer[1:])

    @torch.no_grad()
    def ranks(self, texts: Sequence[TextFeatures]) -> Tensor:
        """See `Student`: there is one depth, the next token."""
        network, parts = self.snapshot(), []
        for batch in read_in_batches(texts, self.weights):
            positions_BL = loss_positions_BL(batch, 0)
            signal = self.weights.signal(batch, self.weights.extend(batch), positions_BL, 0)
            parts.append(rank_M(network(_inputs(batch))[positions_BL], signal)[:, None])
        return torch.cat(parts)

    def as_drafter(self, target: LoadedTarget, tree: TreeShape) -> Drafter:
        """See `Student`: it drafts a chain and ignores the tree."""
        causal = self.snapshot().causal.to(target.model.dtype)
        model = TargetModel(causal, target.model.backend, branches=target.model.branches)
        return SpeculativeSampling(model, target.model.vocab_size, SpsOptions())

    def save(self, folder: Path, target: LoadedTarget, training: dict[str, Any], tree: StoredTree) -> None:
        """See `Student`: a transformers folder, with a model card that names its origin."""
        causal = self.snapshot().causal.to(torch.float16)
        size = sum(parameter.nbytes for parameter in causal.parameters())
        facts = "".join(f"- {key}: {value}\n" for key, value in training.items())
        with atomic_folder(folder, needed=size) as unfinished:
            causal.save_pretrained(unfinished)
            target.tokenizer.save_pretrained(unfinished)
            (unfinished / "README.md").write_text(
                f"# A draft model for {target.name}\n\nLayers {list(self.recipe.draft_model.layers)} of the target, "
                f"distilled from it with `falcon distill`, for `falcon bench --method sps --draft-model .`\n\n{facts}",
                encoding="utf-8",
            )

    def form(self) -> str:
        """See `Student`."""
        causal, layers = self.network.causal, list(self.recipe.draft_model.layers)
        return f"student: {self._size()}, a {type(causal).__name__} of the target's layers {layers}"

    def check_saved(self, target: LoadedTarget) -> None:
        """See `Student`: the configuration is written down and read again."""
        causal = self.network.causal
        config = type(causal.config).from_dict(causal.config.to_dict())
        with torch.device("meta"):
            anew = type(causal)(config).state_dict()
        if wrong := [name for name, held in causal.state_dict().items() if anew[name].shape != held.shape]:
            raise RuntimeError(f"{wrong[0]} has another shape")

    def usage(self, folder: Path) -> str:
        """See `Student`."""
        return f"--method sps --draft-model {folder}"


def shortened(model: Any, layers: Sequence[int]) -> Any:
    """A causal LM of the same class with some of the layers.

    Raises:
        FalconError: The target has no such layer, or its class cannot be cut.
    """
    own = model.config.get_text_config(decoder=True)
    whole = own.num_hidden_layers
    if wrong := [layer for layer in layers if not -whole <= layer < whole]:
        raise FalconError(f"draft_model.layers: the target has {whole} layers, there is no {wrong[0]}")
    chosen = [layer % whole for layer in layers]
    stack = layer_list(model)
    if stack is None:
        raise FalconError(f"a draft model cannot be cut from a {type(model).__name__}: its layers cannot be told")
    try:
        short = type(model)(_cut(model.config, chosen))
        short.load_state_dict(_chosen_weights(model, stack, chosen, short.state_dict()))
        type(short.config).from_dict(short.config.to_dict())  # as it will be read again
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise FalconError(
            f"a draft model of layers {chosen} cannot be cut from a {type(model).__name__} ({first_line(error)}): name "
            "other draft_model.layers, or distill another method"
        ) from error
    short.generation_config = deepcopy(model.generation_config)
    return short


def _cut(config: Any, chosen: Sequence[int]) -> Any:
    """The configuration of a model of these layers; lists with an entry for each layer are cut too."""
    short = deepcopy(config)
    own = short.get_text_config(decoder=True)
    whole = own.num_hidden_layers
    for name, value in list(vars(own).items()):
        if isinstance(value, list) and len(value) == whole:
            setattr(own, name, [value[layer] for layer in chosen])
    own.num_hidden_layers = len(chosen)
    return short


def _chosen_weights(
    model: Any, stack: nn.ModuleList, chosen: Sequence[int], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of the chosen layers, under their new numbers, and all others."""
    prefix = next(name for name, module in model.named_modules() if module is stack)
    numbered, weights = re.compile(rf"{re.escape(prefix)}\.(\d+)\."), model.state_dict()
    found = {name: numbered.sub(lambda place: f"{prefix}.{chosen[int(place[1])]}.", name) for name in wanted}
    for name, old in found.items():
        if old not in weights or weights[old].shape != wanted[name].shape:
            raise ValueError(f"its class makes another layer of it: {old} does not fit")
    return {name: weights[old] for name, old in found.items()}


def _inputs(batch: Batch) -> Tensor:
    """The text's tokens [B, L] from its first on, without the last, which is only predicted."""
    return torch.cat([batch.begin_B[:, None], batch.tokens_BL[:, :-1]], 1)
