"""The training loop, on accelerate: one process or many, the same batches and the same losses.

    for each step    texts of the step → this process's share → forwards of bounded size
                     losses summed, divided by the step's loss-bearing positions over all processes
                     clip, step, write the diary
    now and then     save the state; look at held-out text

Gradients of several forwards add up before the step, and DistributedDataParallel averages over processes only in the
last of them.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from falcon_cli.distill.features.batches import Schedule, collate, share
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.csgd import ForwardResult
from falcon_cli.distill.objective.glancing import ratio
from falcon_cli.distill.students.student import Student
from falcon_cli.distill.training.optimizer import factor, set_rate
from falcon_cli.recipe.distill import DistillRecipe


class FeatureSource(Protocol):
    """Where lessons come from: a cache on disk, or the target itself."""

    def fetch(self, numbers: Sequence[int]) -> list[TextFeatures]:
        """The lessons of these texts."""


@dataclass(frozen=True)
class TrainingTask:
    """What is to be learned."""

    recipe: DistillRecipe
    student: Student
    features: FeatureSource
    lengths: Sequence[int]
    """Tokens of each text."""
    loss_positions: Sequence[int]
    """Loss-bearing positions of each text."""
    steps: int


@dataclass
class Report:
    """One optimizer step, summed over all processes."""

    step: int
    loss: float
    feature: float
    kl: float
    ce: float
    slots: list[float]
    """Share of loss-bearing positions with the right token, slot by slot."""
    glanced: int
    wrong: int
    tokens: int
    seconds: float
    rate: float
    norm: float
    stopped: bool
    """Some process was asked to stop."""

    @property
    def tokens_per_second(self) -> float:
        """Text tokens, padding not counted."""
        return self.tokens / self.seconds

    def line(self) -> dict[str, Any]:
        """For `metrics.jsonl`."""
        return {
            "step": self.step,
            "loss": self.loss,
            "feature": self.feature,
            "kl": self.kl,
            "ce": self.ce,
            "slots": [round(share, 4) for share in self.slots],
            "glanced": self.glanced,
            "wrong": self.wrong,
            "rate": self.rate,
            "norm": round(self.norm, 4),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }


class NotFiniteError(Exception):
    """A step's loss or gradient is no number."""

    def __init__(self, step: int, numbers: Sequence[int]):
        super().__init__(step, numbers)
        self.step, self.numbers = step, numbers


class Trainer:
    """Takes the optimizer steps of a course.

    Args:
        course: What is to be learned.
        network: The drafter, on the accelerator's device, not yet wrapped.
        made: Its optimizers.
        accelerator: One process or many.
    """

    def __init__(
        self, task: TrainingTask, network: nn.Module, made: list[torch.optim.Optimizer], accelerator: Accelerator
    ):
        self.task, self.accelerator, self.made = task, accelerator, made
        self.recipe = task.recipe.training
        # DistributedDataParallel even where accelerate shards the target: the drafter is small
        self.network: Any = DistributedDataParallel(network) if accelerator.num_processes > 1 else network
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.schedule = Schedule(task.lengths, self.recipe.batch_tokens, task.recipe.seed)

    def step(self, step: int, asked_to_stop: bool = False) -> Report:
        """Take one optimizer step.

        Raises:
            NotFiniteError: The loss or its gradient is no number; nothing was learned from it.
        """
        began = perf_counter()
        numbers = self.schedule.step(step)
        loss_positions = max(1, sum(self.task.loss_positions[number] for number in numbers))
        sums = self._sums(step, numbers, loss_positions, asked_to_stop)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or float("inf"))
        if not bool(torch.isfinite(sums[0]) and torch.isfinite(norm)):
            raise NotFiniteError(step, numbers)
        rate = self.recipe.learning_rate * factor(step, self.task.steps, self.recipe)
        set_rate(self.made, rate)
        for optimizer in self.made:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return self._report(step, numbers, sums, rate, float(norm), began)

    def _sums(self, step: int, numbers: list[int], loss_positions: int, asked_to_stop: bool) -> Tensor:
        """Forward and backward of this process's share; returns the sums of all processes."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = share(numbers, self.task.lengths, self.recipe.micro_tokens, rank, world)
        weight = world / loss_positions if parts else 0.0  # DistributedDataParallel takes the mean over processes
        parts = parts or [[numbers[0]]]
        k = self.task.student.k
        sums = torch.zeros(7 + 2 * k, dtype=torch.float64, device=self.accelerator.device)
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            with nullcontext() if last or world == 1 else self.network.no_sync():
                outcome = self._forward(step, part)
                (outcome.losses.total * weight).backward()
            if weight:
                sums += _sums(outcome, k)
        sums[:4] /= loss_positions
        sums[6] = float(asked_to_stop)
        return sums if world == 1 else self.accelerator.reduce(sums, "sum")

    def _forward(self, step: int, numbers: list[int]) -> ForwardResult:
        task = self.task
        texts = task.features.fetch(numbers)
        batch = collate(numbers, texts, self.accelerator.device, self.parameters[0].dtype)
        glance = ratio(task.recipe.glance, step, task.steps) if task.recipe.csgd else 0.0
        with self.accelerator.autocast():
            return task.student.loss(self.network, batch, step, glance)

    def _report(self, step: int, numbers: list[int], sums: Tensor, rate: float, norm: float, began: float) -> Report:
        k = self.task.student.k
        total, feature, kl, ce, glanced, wrong, stopped, *slots = sums.tolist()
        return Report(
            step=step,
            loss=total,
            feature=feature,
            kl=kl,
            ce=ce,
            slots=[right / max(1.0, count) for right, count in zip(slots[:k], slots[k:], strict=True)],
            glanced=int(glanced),
            wrong=int(wrong),
            tokens=sum(self.task.lengths[number] for number in numbers),
            seconds=perf_counter() - began,
            rate=rate,
            norm=norm,
            stopped=stopped > 0,
        )


def _sums(outcome: ForwardResult, k: int) -> Tensor:
    """Total, feature, kl, ce, glanced, wrong, 0, right answers a slot, positions a slot."""
    told = outcome.losses
    device = told.total.device
    counts = torch.bincount(outcome.slot_M - 1, minlength=k)
    right = torch.bincount((outcome.slot_M - 1)[told.right_M], minlength=k)
    parts = torch.stack([told.total.detach(), told.feature, told.kl, told.ce]).double()
    counted = torch.tensor([outcome.glanced, outcome.wrong, 0], dtype=torch.float64, device=device)
    return torch.cat([parts, counted, right.double(), counts.double()])
