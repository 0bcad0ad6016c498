"""Features on disk: safetensors shards, written once, verified by their hashes, read in place.

    shard-00000.safetensors    tokens [N] i32 · answer [N] u8 · features [N, D] · top_ids [N, C] i32 ·
                               top_logprobs [N, C] · starts [samples + 1] i64
    shards.jsonl               one line per finished shard: file, fingerprint of its inputs, bytes, sha256

Which samples go into which shard depends on the corpus alone. So a shard that is missing, truncated or computed from
other inputs is computed again, and the others are kept.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from falcon_cli.console import warn
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.sources import atomic_file, json_lines, sha256_of

FIELDS = ("tokens", "answer", "features", "top_ids", "top_logprobs")


@dataclass(frozen=True)
class ShardPlan:
    """A shard and the samples that belong in it."""

    name: str
    samples: tuple[Sample, ...]
    fingerprint: str

    @property
    def tokens(self) -> int:
        """Tokens of all its samples."""
        return sum(map(len, self.samples))


@dataclass(frozen=True)
class FinishedShard:
    """The index entry of a complete shard."""

    name: str
    fingerprint: str
    bytes: int
    sha256: str


def plan_shards(samples: Sequence[Sample], shard_tokens: int, made_by: str) -> list[ShardPlan]:
    """Cut the samples, in their order, into shards of about `shard_tokens`; `made_by` names target, dtype and top."""
    shards: list[ShardPlan] = []
    group: list[Sample] = []
    for sample in samples:
        group.append(sample)
        if sum(map(len, group)) >= shard_tokens:
            shards.append(_plan(len(shards), group, made_by))
            group = []
    if group:
        shards.append(_plan(len(shards), group, made_by))
    return shards


def missing(folder: Path, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
    """Shards that are not on disk, or not complete; a damaged one is deleted with a warning."""
    finished = {entry.name: entry for entry in _index(folder)}
    wanted = []
    for shard in shards:
        path, entry = folder / shard.name, finished.get(shard.name)
        if entry is None or entry.fingerprint != shard.fingerprint or not path.is_file():
            wanted.append(shard)
        elif path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            warn(f"{path} is damaged or cut short: it is computed again")
            path.unlink()
            wanted.append(shard)
    return wanted


def write_shard(folder: Path, shard: ShardPlan, texts: Sequence[TextFeatures]) -> None:
    """Write a shard atomically, then add it to the index."""
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in FIELDS}
    for text in texts:
        columns["tokens"].append(text.tokens_L)
        columns["answer"].append(text.answer_L.to(torch.uint8))
        columns["features"].append(text.features_LD)
        columns["top_ids"].append(text.top_ids_LZ)
        columns["top_logprobs"].append(text.top_logprobs_LZ)
    tensors = {name: torch.cat(parts) for name, parts in columns.items()}
    tensors["starts"] = torch.tensor([0, *map(len, shard.samples)]).cumsum(0)
    path = folder / shard.name
    with atomic_file(path, needed=sum(t.numel() * t.element_size() for t in tensors.values())) as unfinished:
        save_file(tensors, unfinished)
    entry = FinishedShard(shard.name, shard.fingerprint, path.stat().st_size, sha256_of(path))
    with (folder / "shards.jsonl").open("a") as index:
        index.write("\n" + json.dumps(asdict(entry)) + "\n")  # a line cut short by a kill spoils no other


class ShardReader:
    """Features by number, read from the shards in place."""

    def __init__(self, folder: Path, shards: Sequence[ShardPlan]):
        self._files: list[Any] = [safe_open(folder / shard.name, framework="pt") for shard in shards]
        self._place: list[tuple[int, int, int]] = []
        for number, file in enumerate(self._files):
            starts = file.get_tensor("starts").tolist()
            self._place += [(number, a, b) for a, b in pairwise(starts)]

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._place)

    def fetch(self, numbers: Sequence[int]) -> list[TextFeatures]:
        """The features of these samples."""
        return [self._read(*self._place[number]) for number in numbers]

    def _read(self, shard: int, begin: int, end: int) -> TextFeatures:
        tokens, answer, *rest = (self._files[shard].get_slice(name)[begin:end] for name in FIELDS)
        return TextFeatures(tokens, answer.bool(), *rest)


def make_shards(
    folder: Path, wanted: Sequence[ShardPlan], read: Callable[[Sequence[Sample]], Iterator[tuple[int, TextFeatures]]]
) -> Iterator[int]:
    """Write shards one by one; yields the number of tokens of each text once it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in wanted:
        features: dict[int, TextFeatures] = {}
        for number, text in read(shard.samples):
            features[number] = text
            yield len(text.tokens_L)
        write_shard(folder, shard, [features[number] for number in range(len(shard.samples))])


def _plan(number: int, group: Sequence[Sample], made_by: str) -> ShardPlan:
    digest = hashlib.sha256(made_by.encode())
    for sample in group:
        digest.update(repr((sample.id, sample.tokens, sample.answer)).encode())
    return ShardPlan(f"shard-{number:05d}.safetensors", tuple(group), digest.hexdigest())


def _index(folder: Path) -> list[FinishedShard]:
    entries = []
    for entry in json_lines(folder / "shards.jsonl"):
        with suppress(TypeError):  # a line of another format
            entries.append(FinishedShard(**entry))
    return entries
