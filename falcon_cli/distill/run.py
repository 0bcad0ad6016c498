"""Runs `falcon distill` from recipe to drafter: dialogues, answers, features, training, checkpoint, tree."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env

from falcon_cli.console import say
from falcon_cli.distill.corpus.split import Corpus
from falcon_cli.distill.estimate import estimate_run, peak_memory
from falcon_cli.distill.features.batches import Schedule
from falcon_cli.distill.features.extract import extract_all
from falcon_cli.distill.features.source import (
    OnlineFeatures,
    cached_features,
    check_disk,
    disk_bytes,
)
from falcon_cli.distill.folder import DistillFolder
from falcon_cli.distill.kernel_copy import KernelCopy
from falcon_cli.distill.prepare import prepare
from falcon_cli.distill.students.student import Student
from falcon_cli.distill.training.evaluator import Evaluation, HeldOutEvaluator
from falcon_cli.distill.training.log import read_log
from falcon_cli.distill.training.optimizer import make_optimizers
from falcon_cli.distill.training.session import TrainingSession
from falcon_cli.distill.training.trainer import FeatureSource, Trainer, TrainingTask
from falcon_cli.distill.trial import try_student
from falcon_cli.errors import UsageError
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.recipe.provenance import provenance
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.sharding import sharded
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree


def distill(recipe: DistillRecipe, argv: Sequence[str], resume: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Train a drafter and return the summary of the run; with `dry_run`, its plan, and nothing is written.

    Raises:
        FalconError: A part of the recipe cannot be used, the disk is full, or the loss became non-finite.
        KeyboardInterrupt: Ctrl-C; the work so far is saved.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.training.precision, cpu=recipe.target.device == "cpu" or not torch.cuda.is_available()
    )
    try:
        return _distilled(recipe, argv, resume, dry_run, accelerator)
    finally:
        accelerator.end_training()  # else a process that ends before the others may abort in its network threads


def _distilled(
    recipe: DistillRecipe, argv: Sequence[str], resume: bool, dry_run: bool, accelerator: Accelerator
) -> dict[str, Any]:
    spread = is_spread(accelerator)
    if spread:
        check_sharded(recipe)
    if not dry_run:
        DistillFolder(Path(recipe.out)).holds_run(recipe, resume)
    target = load_target(_on_this_process(recipe, accelerator))
    student = try_student(recipe, target)
    folder = None if dry_run else _run_folder(recipe, argv, resume, accelerator)
    reading = KernelCopy(recipe.target, target)
    corpus = prepare(recipe, reading, folder, accelerator)
    student = student.with_vocabulary_of(target, corpus.train)
    say(student.describe(corpus.held_out))
    if spread:
        target, student = sharded(target, accelerator.device, accelerator.num_processes), student.on(accelerator.device)
        reading = KernelCopy(recipe.target, target)
    job = Job.of(recipe, reading, corpus, student, accelerator)
    plan = estimate_run(recipe, reading, student, corpus, job.steps, accelerator.num_processes)
    for line in plan.lines():
        say(line)
    if folder is None:
        return {"dry_run": True, "corpus": corpus.tally.to_json(), **plan.to_json()}
    return job.run(folder, argv)


@dataclass(frozen=True)
class Job:
    """Everything that a planned run needs."""

    recipe: DistillRecipe
    reading: KernelCopy
    corpus: Corpus
    student: Student
    accelerator: Accelerator
    steps: int

    @classmethod
    def of(
        cls, recipe: DistillRecipe, reading: KernelCopy, corpus: Corpus, student: Student, accelerator: Accelerator
    ) -> "Job":
        """Determine the number of steps, and refuse a cache that would be too large.

        Raises:
            FalconError: The features exceed `cache.max_gb`.
        """
        if recipe.features == "disk":
            check_disk(disk_bytes(corpus.train, reading.original.model.hidden_size, recipe.cache), recipe.cache)
        training = recipe.training
        schedule = Schedule([len(sample) for sample in corpus.train], training.batch_tokens, recipe.seed)
        return cls(recipe, reading, corpus, student, accelerator, training.steps or schedule.steps_of(training.epochs))

    @property
    def target(self) -> LoadedTarget:
        """On torch's operators."""
        return self.reading.original

    def run(self, folder: DistillFolder, argv: Sequence[str]) -> dict[str, Any]:
        """Compute features, train, evaluate; returns the summary."""
        evaluations: list[Evaluation] = []
        evaluator = HeldOutEvaluator(
            self.target,
            self.student,
            extract_all(self.reading.target.model, self.corpus.held_out, self.recipe.cache.top, torch.float32),
            self.corpus.held_out,
            self.recipe.training.decode_prompts,
        )

        def measure(step: int) -> dict[str, Any]:
            evaluations.append(evaluator.evaluate())
            return evaluations[-1].line

        def checkpoint(step: int) -> None:
            tree = evaluations[-1].tree if evaluations else evaluator.evaluate().tree
            self._save(folder, step, tree, argv)

        session = TrainingSession(folder, self.student.network, measure, checkpoint)
        task = self._task(folder)
        if self.recipe.features == "disk":
            self.reading.release()  # the memory is training's
        trainer = Trainer(task, self.student.network, self._optimizers(), self.accelerator)
        rate = session.run(trainer)
        return self._summary(folder, rate)

    def _task(self, folder: DistillFolder) -> TrainingTask:
        train = self.corpus.train
        texts: FeatureSource
        if self.recipe.features == "disk":
            place = Path(self.recipe.cache.folder) if self.recipe.cache.folder else folder.features
            texts = cached_features(self.reading.target, train, self.recipe, place, self.accelerator)
        else:
            texts = OnlineFeatures(self.reading.target, train, self.recipe.cache.top)
        return TrainingTask(
            recipe=self.recipe,
            student=self.student,
            features=texts,
            lengths=[len(sample) for sample in train],
            loss_positions=[self.student.loss_positions(sample.answer) for sample in train],
            steps=self.steps,
        )

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return make_optimizers(self.student.network, self.recipe.training)

    def _save(self, folder: DistillFolder, step: int, tree: TreeShape, argv: Sequence[str]) -> None:
        """Save the checkpoint with its card and the best tree of the last evaluation."""
        origin = provenance(argv)
        evaluations = read_log(folder.held_out)
        last = evaluations[-1] if evaluations else {}
        training = {
            "command": shlex.join(origin["command"]),
            "data": ", ".join(Path(source).name for source in self.recipe.corpus.sources),
            "answers": self.recipe.answers,
            "texts": len(self.corpus.train),
            "tokens": sum(map(len, self.corpus.train)),
            "steps": step,
            "of": self.steps,
            "csgd": self.recipe.csgd and self.student.k > 1 and self.recipe.method == "falcon",
            "tokens per cycle, held out": None if last.get("tau") is None else round(1 + last["tau"], 2),
            "accuracy": {
                f"pass {number}, slot {slot}": share
                for number, slots in enumerate(last.get("top1", []), start=1)
                for slot, share in enumerate(slots, start=1)
            },
            "date": origin["date"],
            "cpu": origin["cpu"],
        }
        made_by = {"steps": step, "tau_foreseen": last.get("tau_foreseen"), "from": "falcon distill, held-out ranks"}
        stored = StoredTree(self.student.k, tree, made_by)
        self.student.save(folder.path / self.student.saved_as, self.target, training, stored)

    def _summary(self, folder: DistillFolder, rate: float) -> dict[str, Any]:
        steps, evaluations = read_log(folder.metrics), read_log(folder.held_out)
        peak = peak_memory(self.target.model.device)
        say(f"trained {self.steps:,} steps at {rate:,.0f} tokens/s; peak memory {peak / 1e9:.2f} GB")
        saved = folder.path / self.student.saved_as
        say(f"the {self.student.saved_as.replace('-', ' ')} is in {saved}: falcon bench {self.student.usage(saved)}")
        return {
            "method": self.recipe.method,
            "drafter": str(saved),
            "steps": self.steps,
            "corpus": self.corpus.tally.to_json(),
            "loss": steps[-1]["loss"] if steps else None,
            "held_out": evaluations[-1] if evaluations else None,
            "tokens_per_second": round(rate, 1),
            "peak_memory_bytes": peak,
        }


def is_spread(accelerator: Accelerator) -> bool:
    """Whether accelerate's configuration asks for FSDP: the target is spread over the processes."""
    return accelerator.num_processes > 1 and parse_flag_from_env("ACCELERATE_USE_FSDP")


def check_sharded(recipe: DistillRecipe) -> None:
    """Refuse settings that processes cannot run independently while they share one target.

    Raises:
        UsageError: The recipe has such a setting; the message names them all.
    """
    wrong = {
        "answers: dataset": recipe.answers != "dataset",
        "features: disk": recipe.features != "disk",
        "training.decode_prompts: 0": recipe.training.decode_prompts != 0,
    }
    if needed := [setting for setting, is_wrong in wrong.items() if is_wrong]:
        raise UsageError(f"a target spread over processes (FSDP) only reads texts: set {', '.join(needed)}")


def _run_folder(recipe: DistillRecipe, argv: Sequence[str], resume: bool, accelerator: Accelerator) -> DistillFolder:
    """The run folder; of several processes, the main one creates it and the others wait."""
    main = accelerator.is_main_process
    folder = DistillFolder.open(recipe, argv, resume) if main else DistillFolder(Path(recipe.out))
    accelerator.wait_for_everyone()
    return folder


def _on_this_process(recipe: DistillRecipe, accelerator: Accelerator) -> Any:
    """The target's recipe, on the GPU that accelerate gave this process; a target to be sharded is loaded on the CPU.

    Whole texts are read, so transformers' layers are used and not the kernels, which are made for few rows.
    """
    target = replace(recipe.target, kernels="torch", quantize="none")
    if is_spread(accelerator):
        return replace(target, device="cpu")
    if accelerator.num_processes > 1 and target.device == "auto":
        return replace(target, device=str(accelerator.device))
    return target
