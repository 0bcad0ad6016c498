"""Tries the student on its target before anything is read or written: a family that cannot be distilled ends here.

Two short made-up texts take the whole way: features and teacher, a loss and its gradient, a draft beside plain
decoding, and weights into a network built anew. Shapes: L positions of a text, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from falcon_cli.console import say
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.padded import reads_padded
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.batches import collate
from falcon_cli.distill.features.extract import TextFeatures, extract_all
from falcon_cli.distill.students.student import Student
from falcon_cli.distill.students.table import make_student
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError, first_line
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.guard.check import FAULTS
from falcon_cli.target.load import LoadedTarget
from falcon_cli.tree.shape import TreeShape

_ALIKE = {"fp32": 1e-2, "bf16": 0.5, "fp16": 0.1}
"""Largest difference of two log-probabilities that rounding explains."""
_NEW = 8
"""Tokens decoded with a draft."""


def try_student(recipe: DistillRecipe, target: LoadedTarget) -> Student:
    """Build the student, take it the whole way once, and tell what it is and how it reads its target.

    Its draft vocabulary is that of the made-up texts until `with_vocabulary_of`.

    Raises:
        FalconError: The target, or the recipe's student, cannot be distilled.
    """
    samples = made_up(recipe, target)
    model = target.model
    if model.logit_form is None:
        raise _refusal(
            recipe, target, "its class makes logits of its LM head's outputs in a way that falcon cannot learn"
        )
    with _faults(recipe, target, "reading texts"):
        features = extract_all(model, samples, recipe.cache.top, torch.float32)
    if not _teaches(target, samples, features):
        raise _refusal(recipe, target, "its log-probabilities in a padded batch are not those of its own forward")
    with _faults(recipe, target, "building the student"):
        student = make_student(recipe, target, samples)
    with _faults(recipe, target, "a loss"):
        _learn(recipe, target, student, features)
    with _faults(recipe, target, "a draft"):
        _draft(recipe, target, student, samples[-1])
    with _faults(recipe, target, "weights saved and loaded"):
        student.check_saved(target)
    for line in (student.form(), *_reading(recipe, target)):
        say(line)
    return student


def made_up(recipe: DistillRecipe, target: LoadedTarget) -> list[Sample]:
    """Two texts of random tokens, as many as the longest block needs."""
    block = max(recipe.network.k, recipe.medusa.k)
    drawn = torch.Generator().manual_seed(0)
    samples = []
    for name, length in (("short", 3 * block + 6), ("long", 4 * block + 9)):
        length = min(length, target.model.context_limit - _NEW - 1)
        tokens = torch.randint(target.model.vocab_size, (length,), generator=drawn).tolist()
        samples.append(Sample(name, tuple(tokens), tuple(place >= 3 for place in range(length))))
    return samples


def _teaches(target: LoadedTarget, samples: Sequence[Sample], features: Sequence[TextFeatures]) -> bool:
    """Whether the teacher's log-probabilities are those of the class's own forward, text by text."""
    model = target.model
    for sample, text in zip(samples, features, strict=True):
        tokens_L = torch.tensor(sample.tokens, device=model.device)
        own_LV = _own_logits(target, tokens_L).float().log_softmax(-1)
        kept = text.top_logprobs_LZ.any(-1)
        own = own_LV.cpu()[kept].gather(-1, text.top_ids_LZ[kept].long())
        if not bool(((own - text.top_logprobs_LZ[kept]).abs() < _ALIKE[target.dtype]).all()):
            return False
    return True


@torch.inference_mode()
def _own_logits(target: LoadedTarget, tokens_L: Tensor) -> Tensor:
    """The logits [L, V] of the class's own forward."""
    with target.model.plain_transformers():
        return target.model.forward.own_logits(tokens_L)


def _learn(recipe: DistillRecipe, target: LoadedTarget, student: Student, features: Sequence[TextFeatures]) -> None:
    batch = collate(range(len(features)), features, target.model.device, torch.float32)
    total = student.loss(student.network, batch, 0, recipe.glance if recipe.csgd else 0.0).losses.total
    total.backward()
    gradients = [parameter.grad for parameter in student.network.parameters() if parameter.grad is not None]
    student.network.zero_grad(set_to_none=True)
    if not bool(total.isfinite()) or not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise _refusal(recipe, target, "the loss of random texts, or its gradient, is not finite")
    if not any(bool(gradient.any()) for gradient in gradients):
        raise _refusal(recipe, target, "the loss of random texts has no gradient")


def _draft(recipe: DistillRecipe, target: LoadedTarget, student: Student, sample: Sample) -> None:
    drafters = (student.as_drafter(target, TreeShape.chain(student.k)), Autoregressive(target.model.device))
    drafted, plain = (complete(target.model, drafter, list(sample.tokens), Stop((), _NEW)).ids for drafter in drafters)
    if drafted != plain and target.dtype == "fp32":  # in half precision equal logits may fall either way
        raise _refusal(recipe, target, "text decoded with its draft is not plain decoding's")


def _reading(recipe: DistillRecipe, target: LoadedTarget) -> list[str]:
    """How the target's norm, LM head and padding are treated, where that differs from Llama's."""
    form, biased = target.model.logit_form, getattr(target.model.head, "bias", None) is not None
    head = " and ".join(part for part in ("biased" if biased else "", str(form)) if part)
    lines = [f"target: {target.model.outline.norm.told}; logits {head or 'as its LM head gives them'}"]
    if recipe.answers == "target" and not reads_padded(target):
        lines.append("        it reads a padded batch otherwise than its rows, so prompts are answered one by one")
    return lines


@contextmanager
def _faults(recipe: DistillRecipe, target: LoadedTarget, what: str) -> Iterator[None]:
    """What a class raises that cannot do something, in one line."""
    try:
        yield
    except FAULTS as error:
        raise _refusal(recipe, target, f"{what} fails: {first_line(error)}") from error


def _refusal(recipe: DistillRecipe, target: LoadedTarget, reason: str) -> FalconError:
    family = type(target.model.model).__name__
    return FalconError(f"{target.name}: a {family} cannot be distilled by method {recipe.method}: {reason}")
