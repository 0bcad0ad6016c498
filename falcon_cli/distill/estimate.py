"""Estimates a run before it starts: texts, disk, memory, steps, and hours from a short trial on this device."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch

from falcon_cli.console import duration
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.split import Corpus
from falcon_cli.distill.features.batches import Schedule, collate
from falcon_cli.distill.features.extract import extract_all
from falcon_cli.distill.features.source import disk_bytes
from falcon_cli.distill.kernel_copy import KernelCopy
from falcon_cli.distill.students.student import Student
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.target.load import DTYPES, LoadedTarget

_TRIAL_TOKENS = 1024


@dataclass(frozen=True)
class RunEstimate:
    """The size of a run."""

    texts: int
    tokens: int
    answer_tokens: int
    held_out: int
    disk_gb: float
    memory_gb: float
    """Weights, gradients, moments and the largest forward; an estimate."""
    steps: int
    trained_tokens: int
    features_per_second: float
    trained_per_second: float
    processes: int

    @property
    def features_hours(self) -> float:
        """Hours to read all texts once; 0 for online features, which are part of training."""
        return self.tokens / self.features_per_second / 3600 / self.processes if self.disk_gb else 0.0

    @property
    def training_hours(self) -> float:
        """Hours of all steps, without evaluations."""
        seconds = 1 / self.trained_per_second + (0 if self.disk_gb else 1 / self.features_per_second)
        return self.trained_tokens * seconds / 3600 / self.processes

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        disk = f"{self.disk_gb:.2f} GB of features on disk" if self.disk_gb else "no features on disk"
        return [
            f"plan: {self.texts:,} texts, {self.tokens:,} tokens ({self.answer_tokens:,} of answers), "
            f"{self.held_out} texts held out",
            f"      {disk}, about {self.memory_gb:.1f} GB of memory",
            f"      {self.steps:,} steps over {self.trained_tokens:,} tokens",
            f"      features {duration(self.features_hours)} at {self.features_per_second:,.0f} tokens/s, "
            f"training {duration(self.training_hours)} at {self.trained_per_second:,.0f} tokens/s",
        ]

    def to_json(self) -> dict[str, Any]:
        """The estimate as JSON."""
        return asdict(self) | {"features_hours": self.features_hours, "training_hours": self.training_hours}


def estimate_run(
    recipe: DistillRecipe, reading: KernelCopy, student: Student, corpus: Corpus, steps: int, processes: int
) -> RunEstimate:
    """Estimate a run. This takes a few seconds, for a trial of reading and of training."""
    train, target = corpus.train, reading.original
    tokens = sum(map(len, train))
    epoch = Schedule([len(sample) for sample in train], recipe.training.batch_tokens, recipe.seed).steps_of(1)
    features_rate, training_rate = _trial(recipe, reading.target, student, train)
    cache = recipe.cache
    return RunEstimate(
        texts=len(train),
        tokens=tokens,
        answer_tokens=sum(sample.answer_tokens for sample in train),
        held_out=len(corpus.held_out),
        disk_gb=disk_bytes(train, target.model.hidden_size, cache) / 1e9 if recipe.features == "disk" else 0.0,
        memory_gb=memory_bytes(recipe, target, student) / 1e9,
        steps=steps,
        trained_tokens=round(tokens * steps / epoch),
        features_per_second=features_rate,
        trained_per_second=training_rate,
        processes=processes,
    )


def memory_bytes(recipe: DistillRecipe, target: LoadedTarget, student: Student) -> int:
    """Target, drafter with gradients and two moments, and the activations of one forward.

    For the backward pass, a position keeps about 24 vectors of the hidden size, 5 of the MLP's size, and its row of the
    attention mask. Logits are in memory one chunk at a time, twice.
    """
    outline = target.model.outline
    rows = recipe.training.micro_tokens
    weights = sum(p.numel() * p.element_size() for p in target.model.model.parameters())
    trained = sum(p.numel() for p in student.network.parameters()) * 4 * 4
    activations = rows * (24 * outline.hidden_size + 5 * outline.mlp_size) * 4
    mask = rows * min(recipe.corpus.max_tokens, rows)
    logits = 2 * min(1024, rows) * len(student.weights.head_WD) * 4
    shared = (student.weights.embedding_VD.numel() + student.weights.head_WD.numel()) * 4
    return weights + trained + activations + mask + logits + shared


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in bytes: on the GPU, or in main memory; 0 where the system does not tell it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _trial(
    recipe: DistillRecipe, target: LoadedTarget, student: Student, train: Sequence[Sample]
) -> tuple[float, float]:
    """Tokens per second of reading and of training, measured on one small batch after a warm-up."""
    texts, tokens = [], 0
    for sample in train:
        texts.append(sample)
        tokens += len(sample)
        if tokens >= _TRIAL_TOKENS:
            break
    dtype = DTYPES[recipe.cache.dtype]
    extract_all(target.model, texts[:1], recipe.cache.top, dtype)  # warm-up
    began = perf_counter()
    features = extract_all(target.model, texts, recipe.cache.top, dtype)
    reading = tokens / (perf_counter() - began)
    batch = collate(range(len(texts)), features, target.model.device, torch.float32)
    glance = recipe.glance if recipe.csgd else 0.0
    for _ in range(2):
        began = perf_counter()
        student.loss(student.network, batch, 0, glance).losses.total.backward()
        target.model.synchronize()
    training = tokens / (perf_counter() - began)
    student.network.zero_grad(set_to_none=True)
    return reading, training
