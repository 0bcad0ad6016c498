"""The sources of features: shards on disk, computed once, or the target in the training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator

from falcon_cli.console import progress, say
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import TextFeatures, bytes_a_token, extract, extract_all, forwards
from falcon_cli.distill.features.shards import ShardPlan, ShardReader, make_shards, missing, plan_shards
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CacheRecipe, DistillRecipe
from falcon_cli.target.load import DTYPES, LoadedTarget
from falcon_cli.target.sharding import idle_forward


@dataclass(frozen=True)
class OnlineFeatures:
    """Features computed in the training loop, each time a text is needed; nothing is stored on disk."""

    target: LoadedTarget
    samples: Sequence[Sample]
    top: int

    def fetch(self, numbers: Sequence[int]) -> list[TextFeatures]:
        """The features of these texts."""
        wanted = [self.samples[number] for number in numbers]
        return extract_all(self.target.model, wanted, self.top, self.target.model.dtype)


def disk_bytes(samples: Sequence[Sample], hidden: int, recipe: CacheRecipe) -> int:
    """Bytes that the features of these texts take."""
    return sum(map(len, samples)) * bytes_a_token(hidden, recipe.top)


def check_disk(needed: int, recipe: CacheRecipe) -> None:
    """Refuse a cache that would be too large, before anything is written.

    Raises:
        FalconError: It would exceed `cache.max_gb`.
    """
    if needed > recipe.max_gb * 1e9:
        raise FalconError(
            f"the features take {needed / 1e9:.1f} GB, cache.max_gb allows {recipe.max_gb:g}: raise it, take fewer "
            "dialogues (corpus.limit), or compute them while training (features: online)"
        )


def cached_features(
    target: LoadedTarget, samples: Sequence[Sample], recipe: DistillRecipe, folder: Path, accelerator: Accelerator
) -> ShardReader:
    """Features from the run's cache; each process computes its share of the missing shards."""
    cache = recipe.cache
    made_by = f"{target.name} {recipe.target.revision} {recipe.target.adapter} {target.dtype} {cache.dtype} {cache.top}"
    shards = plan_shards(samples, cache.shard_tokens, made_by)
    folder.mkdir(parents=True, exist_ok=True)
    assigned = shards[accelerator.process_index :: accelerator.num_processes]
    wanted = missing(folder, assigned)
    rounds = _greatest(len(wanted), accelerator)
    if rounds:
        _make(target, wanted, rounds, cache, folder, accelerator)
    accelerator.wait_for_everyone()
    return ShardReader(folder, shards)


def _make(
    target: LoadedTarget,
    wanted: Sequence[ShardPlan],
    rounds: int,
    cache: CacheRecipe,
    folder: Path,
    accelerator: Accelerator,
) -> None:
    """Compute this process's shards; processes that share a sharded target run the same number of forwards."""
    tokens = sum(shard.tokens for shard in wanted)
    began, done = perf_counter(), 0

    def read(samples: Sequence[Sample]) -> Iterator[tuple[int, TextFeatures]]:
        count = forwards(samples)
        most = _greatest(count, accelerator) if target.model.sharded else count  # asked before any process reads on
        yield from extract(target.model, samples, cache.top, DTYPES[cache.dtype])
        for _ in range(most - count):
            idle_forward(target.model)

    with progress("reading", tokens, "tokens") as bar:
        for read_tokens in make_shards(folder, wanted, read):
            done += read_tokens
            bar.advance(read_tokens)
            bar.update(note=f"{done / (perf_counter() - began):,.0f} tokens/s")
        for _ in range(rounds - len(wanted)):
            list(read(()))
    seconds = perf_counter() - began
    rate = f"{tokens / seconds:,.0f} tokens/s"
    say(f"features: {tokens:,} tokens in {seconds / 60:.1f} min ({rate}), {len(wanted)} shards")


def _greatest(number: int, accelerator: Accelerator) -> int:
    """The maximum of a number over all processes."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())
