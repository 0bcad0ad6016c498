"""A tiny target, a few texts and a training task, shared by the tests of distillation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import extract
from falcon_cli.distill.students.table import make_student
from falcon_cli.distill.training.optimizer import make_optimizers
from falcon_cli.distill.training.trainer import Trainer, TrainingTask
from falcon_cli.recipe.distill import DistillRecipe, LossRecipe, NetworkRecipe, TrainingRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

VOCAB = 48


@dataclass
class InMemory:
    """Features in a list."""

    texts: list[Any]
    asked: list[list[int]] = field(default_factory=list)

    def fetch(self, numbers):
        self.asked.append(list(numbers))
        return [self.texts[number] for number in numbers]


@dataclass
class TrainingSetup:
    """Everything a training test needs."""

    recipe: DistillRecipe
    target: LoadedTarget
    samples: list[Sample]
    student: Any
    features: InMemory

    def trainer(self, accelerator: Accelerator | None = None) -> Trainer:
        """A trainer of this student."""
        task = TrainingTask(
            self.recipe,
            self.student,
            self.features,
            [len(sample) for sample in self.samples],
            [self.student.loss_positions(sample.answer) for sample in self.samples],
            self.recipe.training.steps,
        )
        optimizers = make_optimizers(self.student.network, self.recipe.training)
        return Trainer(task, self.student.network, optimizers, accelerator or Accelerator(cpu=True))

    def trained(self, steps: int) -> list[float]:
        """The losses of the first steps."""
        trainer = self.trainer()
        return [trainer.step(step).loss for step in range(steps)]


def texts(count: int = 12, seed: int = 0) -> list[Sample]:
    """Random dialogues: a prompt, an answer, for some a second turn."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    samples = []
    for text in range(count):
        answer: list[bool] = []
        for _ in range(1 + text % 2):
            answer += [False] * number(2, 6) + [True] * number(4, 14)
        tokens = torch.randint(VOCAB, (len(answer),), generator=draw).tolist()
        samples.append(Sample(f"text-{text}", tuple(tokens), tuple(answer)))
    return samples


@pytest.fixture(scope="session")
def tiny_target(tiny_model: Callable[..., Any], byte_tokenizer: Any) -> LoadedTarget:
    """A tiny random Llama in fp32, as a loaded target."""
    return LoadedTarget("tiny", TargetModel(tiny_model(dtype=torch.float32)), byte_tokenizer, frozenset({2}), "fp32")


@pytest.fixture
def training_setup(tiny_target: LoadedTarget) -> Callable[..., TrainingSetup]:
    """Build a setup: `training_setup(k=2, csgd=False, draft_vocab_size=20, steps=10)`."""

    def build(
        k: int = 2,
        mixer: Any = "linear",
        steps: int = 10,
        draft_vocab_size: int = 0,
        micro_tokens: int = 512,
        optimizer: Any = "adamw",
        **changes: Any,
    ) -> TrainingSetup:
        training = TrainingRecipe(
            steps=steps,
            batch_tokens=96,
            micro_tokens=micro_tokens,
            optimizer=optimizer,
            learning_rate=0.01,
            measure_steps=5,
            decode_prompts=1,
        )
        recipe = replace(
            DistillRecipe(loss=LossRecipe(0.1, 1.0, 0.1), training=training),
            network=NetworkRecipe(k=k, mixer=mixer, draft_vocab_size=draft_vocab_size),
            **changes,
        )
        samples = texts()
        features = dict(extract(tiny_target.model, samples, 8, torch.float32))
        student = make_student(recipe, tiny_target, samples)
        return TrainingSetup(
            recipe, tiny_target, samples, student, InMemory([features[n] for n in range(len(samples))])
        )

    return build
