"""The training loop, on accelerate: one process or many, the same batches and the same losses.

    for each step    texts of the step → this process's share → forwards of bounded size
                     losses summed, divided by the step's loss positions over all processes
                     clip, step, log
    now and then     save the state; evaluate on held-out text

Gradients of several forwards are accumulated before the step, and DistributedDataParallel averages over processes only
in the last of them.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from falcon_cli.distill.features.batches import Schedule, collate, share
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.objective.csgd import ForwardResult
from falcon_cli.distill.objective.glancing import ratio
from falcon_cli.distill.students.student import Student
from falcon_cli.distill.training.optimizer import factor, set_rate
from falcon_cli.distill.training.step_sums import StepSums
from falcon_cli.recipe.distill import DistillRecipe


class FeatureSource(Protocol):
    """Where features come from: a cache on disk, or the target itself."""

    def fetch(self, numbers: Sequence[int]) -> list[TextFeatures]:
        """The features of these texts."""


@dataclass(frozen=True)
class TrainingTask:
    """What a run trains, on which texts, for how long."""

    recipe: DistillRecipe
    student: Student
    features: FeatureSource
    lengths: Sequence[int]
    """Tokens of each text."""
    loss_positions: Sequence[int]
    """Number of loss positions of each text."""
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
    """Share of loss positions with the right token, slot by slot."""
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
        """A line of `metrics.jsonl`."""
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
    """A step's loss or gradient is not finite."""

    def __init__(self, step: int, numbers: Sequence[int]):
        super().__init__(step, numbers)
        self.step, self.numbers = step, numbers


class Trainer:
    """Takes the optimizer steps of a training task.

    Args:
        task: What is trained, and on which texts.
        network: The drafter, on the accelerator's device, not yet wrapped.
        optimizers: Its optimizers.
        accelerator: One process or many.
    """

    def __init__(
        self, task: TrainingTask, network: nn.Module, optimizers: list[torch.optim.Optimizer], accelerator: Accelerator
    ):
        self.task, self.accelerator, self.optimizers = task, accelerator, optimizers
        self.recipe = task.recipe.training
        # DistributedDataParallel even where accelerate shards the target: the drafter is small
        self.network: Any = DistributedDataParallel(network) if accelerator.num_processes > 1 else network
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.schedule = Schedule(task.lengths, self.recipe.batch_tokens, task.recipe.seed)

    def step(self, step: int, asked_to_stop: bool = False) -> Report:
        """Take one optimizer step.

        Raises:
            NotFiniteError: The loss or its gradient is not finite; no optimizer step was taken.
        """
        began = perf_counter()
        numbers = self.schedule.step(step)
        loss_positions = max(1, sum(self.task.loss_positions[number] for number in numbers))
        sums = self._forward_backward(step, numbers, loss_positions, asked_to_stop)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or float("inf"))
        # Checked before the step: a NaN must not reach weights or moments, or the saved state would be lost as well.
        if not bool(torch.isfinite(sums.loss) and torch.isfinite(norm)):
            raise NotFiniteError(step, numbers)
        rate = self.recipe.learning_rate * factor(step, self.task.steps, self.recipe)
        set_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return self._report(step, numbers, sums, rate, float(norm), began)

    def _forward_backward(self, step: int, numbers: list[int], loss_positions: int, asked_to_stop: bool) -> StepSums:
        """Forward and backward of this process's share; returns the sums of all processes."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = share(numbers, self.task.lengths, self.recipe.micro_tokens, rank, world)
        # Loss = Σ over all processes / loss positions. DistributedDataParallel takes the mean of the gradients over
        # processes, hence the factor `world`.
        weight = world / loss_positions if parts else 0.0
        # A process without texts still takes part in the gradients' reduction: one text, with weight 0.
        parts = parts or [[numbers[0]]]
        sums = StepSums.zero(self.task.student.k, self.accelerator.device)
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            # Gradients accumulate locally; only the last backward reduces them over processes.
            with nullcontext() if last or world == 1 else self.network.no_sync():
                result = self._forward(step, part)
                (result.losses.total * weight).backward()
            if weight:
                sums += StepSums.of(result, self.task.student.k)
        sums = replace(sums.mean_losses(loss_positions), stop_requests=sums.stop_requests + float(asked_to_stop))
        return sums.reduced(self.accelerator)

    def _forward(self, step: int, numbers: list[int]) -> ForwardResult:
        task = self.task
        texts = task.features.fetch(numbers)
        batch = collate(numbers, texts, self.accelerator.device, self.parameters[0].dtype)
        glance = ratio(task.recipe.glance, step, task.steps) if task.recipe.csgd else 0.0
        with self.accelerator.autocast():
            return task.student.loss(self.network, batch, step, glance)

    def _report(self, step: int, numbers: list[int], sums: StepSums, rate: float, norm: float, began: float) -> Report:
        slots = zip(sums.right_K.tolist(), sums.positions_K.tolist(), strict=True)
        return Report(
            step=step,
            loss=float(sums.loss),
            feature=float(sums.feature),
            kl=float(sums.kl),
            ce=float(sums.ce),
            slots=[right / max(1.0, positions) for right, positions in slots],  # every position may be glanced at
            glanced=int(sums.glanced),
            wrong=int(sums.wrong),
            tokens=sum(self.task.lengths[number] for number in numbers),
            seconds=perf_counter() - began,
            rate=rate,
            norm=norm,
            stopped=bool(sums.stop_requests > 0),
        )
