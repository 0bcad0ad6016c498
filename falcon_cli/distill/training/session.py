"""One session of a training run: from the last saved state to the end, or to Ctrl-C.

The first Ctrl-C ends the session after the current step, once the state is saved; a second one interrupts at once.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from falcon_cli.console import Bar, progress, say
from falcon_cli.distill.features.batches import collate
from falcon_cli.distill.folder import DistillFolder
from falcon_cli.distill.training.curves import draw_curves
from falcon_cli.distill.training.log import JsonlLog, read_log
from falcon_cli.distill.training.state import load_state, save_state
from falcon_cli.distill.training.trainer import NotFiniteError, Report, Trainer
from falcon_cli.errors import FalconError
from falcon_cli.sources import atomic_file

_WINDOW = 0.95
"""Weight of the past in the figures that the progress bar shows."""


@dataclass(frozen=True)
class TrainingSession:
    """What a session needs in addition to the trainer.

    Args:
        folder: Holds state, logs and curves.
        network: The drafter, not wrapped.
        measure: Evaluates on held-out text: number of steps taken → fields of a log line.
        checkpoint: Writes the drafter as it is after this number of steps.
    """

    folder: DistillFolder
    network: nn.Module
    measure: Callable[[int], dict[str, Any]]
    checkpoint: Callable[[int], None]

    def run(self, trainer: Trainer) -> float:
        """Train to the end; returns text tokens per second of this session.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the state is saved.
            FalconError: The loss became non-finite; the batch is saved in the run folder.
        """
        steps, main = trainer.task.steps, trainer.accelerator.is_main_process
        begin = load_state(self.folder.state, self.network, trainer.optimizers)
        if begin:
            say(f"resuming: {begin:,} of {steps:,} steps are already taken")
        log = JsonlLog(self.folder.metrics, begin) if main else None
        evaluations = JsonlLog(self.folder.held_out, begin + 1) if main else None
        averages = _RunningAverages()
        with graceful_interrupt() as asked, progress("training", steps, "steps") as bar:
            bar.advance(begin)
            saved = monotonic()
            for step in range(begin, steps):
                report = self._step(trainer, step, asked())
                averages.add(report)
                if log and evaluations:
                    log.write(report.line())
                    self._show(bar, averages)
                    if (step + 1) % trainer.recipe.measure_steps == 0 or step + 1 == steps:
                        self._evaluate(evaluations, step + 1)
                    if step + 1 == steps or report.stopped or monotonic() - saved > 60 * trainer.recipe.save_minutes:
                        self.save(trainer, step + 1)
                        saved = monotonic()
                if report.stopped and step + 1 < steps:
                    say(f"{step + 1:,} of {steps:,} steps are kept in {self.folder.path}; add --resume to go on")
                    raise KeyboardInterrupt
        return averages.tokens_per_second

    def save(self, trainer: Trainer, step: int) -> None:
        """Write state, checkpoint and curves."""
        save_state(self.folder.state, self.network, trainer.optimizers, step)
        self.checkpoint(step)
        with atomic_file(self.folder.curves) as unfinished:
            draw_curves(read_log(self.folder.metrics), read_log(self.folder.held_out), unfinished)

    def _step(self, trainer: Trainer, step: int, asked: bool) -> Report:
        try:
            return trainer.step(step, asked)
        except NotFiniteError as failure:
            path = self.folder.path / "not-finite.safetensors"
            numbers = list(failure.numbers)
            texts = trainer.task.features.fetch(numbers)
            batch = collate(numbers, texts, torch.device("cpu"), torch.float32)
            tensors = {key: value for key, value in vars(batch).items() if isinstance(value, torch.Tensor)}
            with atomic_file(path) as unfinished:
                save_file(tensors | {"numbers": torch.tensor(numbers)}, unfinished)
            raise FalconError(
                f"the loss of step {failure.step} is not finite; its batch is saved in {path}: look for broken "
                "features there, or lower training.learning_rate"
            ) from failure

    def _evaluate(self, evaluations: JsonlLog, step: int) -> None:
        line = self.measure(step)
        evaluations.write({"step": step, **line})
        shares = " ".join(
            f"pass {number} {'/'.join(f'{100 * share:.1f}' for share in slots)} %"
            for number, slots in enumerate(line["top1"], start=1)
        )
        tau = f"; tokens per cycle {1 + line['tau']:.2f}" if line.get("tau") is not None else ""
        say(f"step {step:,}: held-out top-1 {shares}{tau}")

    def _show(self, bar: Bar, averages: "_RunningAverages") -> None:
        slots = "/".join(f"{100 * share:.0f}" for share in averages.slots)
        bar.advance()
        bar.update(note=f"loss {averages.loss:.3f} · slots {slots} % · {averages.tokens_per_second:,.0f} tokens/s")


class _RunningAverages:
    """Running averages that the progress bar shows."""

    def __init__(self) -> None:
        self.loss, self.slots = 0.0, [0.0]
        self._tokens, self._seconds = 0, 0.0

    @property
    def tokens_per_second(self) -> float:
        """Text tokens trained on per second, without evaluations and saves."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, report: Report) -> None:
        """Add one step."""
        first = self._tokens == 0
        self._tokens += report.tokens
        self._seconds += report.seconds
        weight = 0.0 if first else _WINDOW
        before = report.slots if first else self.slots
        self.loss = weight * self.loss + (1 - weight) * report.loss
        self.slots = [weight * old + (1 - weight) * new for old, new in zip(before, report.slots, strict=True)]


@contextmanager
def graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request that the block can query; the second interrupts as usual."""
    requested = False

    def request_stop(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, request_stop)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, before)
