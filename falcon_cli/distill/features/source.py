"""Where the lessons of a run come from: shards on disk, computed once, or the target in the training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator

from falcon_cli.console import progress, say
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import TextFeatures, bytes_a_token, extract, forwards
from falcon_cli.distill.features.shards import ShardPlan, ShardReader, make_shards, missing, plan_shards
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CacheRecipe, DistillRecipe
from falcon_cli.target.load import DTYPES, LoadedTarget
from falcon_cli.target.sharding import idle_forward


@dataclass(frozen=True)
class OnlineFeatures:
    """The target reads every text when its turn comes; nothing lies on disk."""

    target: LoadedTarget
    samples: Sequence[Sample]
    top: int

    def fetch(self, numbers: Sequence[int]) -> list[TextFeatures]:
        """The lessons of these texts."""
        wanted = [self.samples[number] for number in numbers]
        found = dict(extract(self.target.model, wanted, self.top, self.target.model.dtype))
        return [found[place] for place in range(len(wanted))]


def disk_bytes(samples: Sequence[Sample], hidden: int, recipe: CacheRecipe) -> int:
    """Bytes that the lessons of these texts take."""
    return sum(map(len, samples)) * bytes_a_token(hidden, recipe.top)


def check_disk(needed: int, recipe: CacheRecipe) -> None:
    """Refuse a cache that would be too large, before anything is written.

    Raises:
        FalconError: It would.
    """
    if needed > recipe.max_gb * 1e9:
        raise FalconError(
            f"the features take {needed / 1e9:.1f} GB, cache.max_gb allows {recipe.max_gb:g}: raise it, take fewer "
            "dialogues (corpus.limit), or compute them while training (features: online)"
        )


def cached_features(
    target: LoadedTarget, samples: Sequence[Sample], recipe: DistillRecipe, folder: Path, accelerator: Accelerator
) -> ShardReader:
    """Features from the run's cache; each process makes its share of the shards that are not there yet."""
    cache = recipe.cache
    made_by = f"{target.name} {recipe.target.revision} {recipe.target.adapter} {target.dtype} {cache.dtype} {cache.top}"
    shards = plan_shards(samples, cache.shard_tokens, made_by)
    folder.mkdir(parents=True, exist_ok=True)
    mine = shards[accelerator.process_index :: accelerator.num_processes]
    wanted = missing(folder, mine)
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
    """Make this process's shards; processes that share a sharded target keep step, forward by forward."""
    tokens = sum(shard.tokens for shard in wanted)
    began, done = perf_counter(), 0

    def read(samples: Sequence[Sample]) -> Iterator[tuple[int, TextFeatures]]:
        own = forwards(samples)
        most = _greatest(own, accelerator) if target.model.sharded else own  # asked before any process reads on
        yield from extract(target.model, samples, cache.top, DTYPES[cache.dtype])
        for _ in range(most - own):
            idle_forward(target.model)

    with progress("reading", tokens, "tokens") as bar:
        for count in make_shards(folder, wanted, read):
            done += count
            bar.advance(count)
            bar.update(note=f"{done / (perf_counter() - began):,.0f} tokens/s")
        for _ in range(rounds - len(wanted)):
            list(read(()))
    seconds = perf_counter() - began
    rate = f"{tokens / seconds:,.0f} tokens/s"
    say(f"features: {tokens:,} tokens in {seconds / 60:.1f} min ({rate}), {len(wanted)} shards")


def _greatest(number: int, accelerator: Accelerator) -> int:
    """The greatest of all processes' numbers."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def held_out_features(target: LoadedTarget, samples: Sequence[Sample], top: int) -> list[TextFeatures]:
    """The held-out texts' lessons, in memory, in the target's own precision."""
    found = dict(extract(target.model, samples, top, torch.float32))
    return [found[number] for number in range(len(samples))]
