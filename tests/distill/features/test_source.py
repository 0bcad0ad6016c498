"""Features from the disk are those from the target, and a cache that is too large is refused before a write."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import extract_all
from falcon_cli.distill.features.source import (
    OnlineFeatures,
    cached_features,
    check_disk,
    disk_bytes,
)
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CacheRecipe, DistillRecipe

SMALL = DistillRecipe(cache=CacheRecipe(shard_tokens=60, top=8))


@pytest.fixture
def setup(training_setup):
    return training_setup()


def read(setup, folder, recipe=SMALL):
    return cached_features(setup.target, setup.samples, recipe, folder, Accelerator(cpu=True))


def write_times(folder):
    """When each shard was written, by name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize(("dtype", "step"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_features_on_disk_are_the_target_s_within_half_precision(setup, tmp_path, dtype, step):
    recipe = replace(SMALL, cache=replace(SMALL.cache, dtype=dtype))
    numbers = [7, 0, 11, 3]
    disk = read(setup, tmp_path, recipe).fetch(numbers)
    online = OnlineFeatures(setup.target, setup.samples, 8).fetch(numbers)
    for number, stored, computed in zip(numbers, disk, online, strict=True):
        assert tuple(stored.tokens_L.tolist()) == tuple(computed.tokens_L.tolist()) == setup.samples[number].tokens
        assert torch.equal(stored.answer_L, computed.answer_L)
        assert torch.equal(stored.top_ids_LZ, computed.top_ids_LZ)
        torch.testing.assert_close(stored.features_LD.float(), computed.features_LD, rtol=step, atol=1e-5)
        torch.testing.assert_close(stored.top_logprobs_LZ.float(), computed.top_logprobs_LZ, rtol=step, atol=1e-5)


def test_a_cache_is_made_once(setup, tmp_path, capsys):
    read(setup, tmp_path)
    before = write_times(tmp_path)
    assert len(before) > 2
    assert f"features: {sum(map(len, setup.samples))} tokens in" in capsys.readouterr().err
    read(setup, tmp_path)
    assert write_times(tmp_path) == before
    assert capsys.readouterr().err == ""


def test_only_a_damaged_shard_is_computed_again(setup, tmp_path, capsys):
    expected = read(setup, tmp_path).fetch(range(12))
    before = write_times(tmp_path)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    again = read(setup, tmp_path).fetch(range(12))
    assert "shard-00001.safetensors is damaged or cut short: it is computed again" in capsys.readouterr().err
    assert {name for name, time in write_times(tmp_path).items() if before[name] != time} == {path.name}
    for first, second in zip(expected, again, strict=True):
        assert all(torch.equal(value, getattr(second, name)) for name, value in vars(first).items())


@pytest.mark.parametrize(
    "change",
    [
        {"cache": replace(SMALL.cache, dtype="bf16")},
        {"cache": replace(SMALL.cache, top=4)},
        {"target": replace(SMALL.target, revision="main")},
        {"target": replace(SMALL.target, adapter="mine")},
    ],
)
def test_a_cache_of_another_target_or_form_is_not_used(setup, tmp_path, change):
    read(setup, tmp_path)
    before = write_times(tmp_path)
    features = read(setup, tmp_path, replace(SMALL, **change)).fetch([0])
    assert all(before[name] != time for name, time in write_times(tmp_path).items())
    assert features[0].top_ids_LZ.shape[1] == change.get("cache", SMALL.cache).top


def test_a_kill_between_two_shards_costs_only_what_was_not_written(setup, tmp_path):
    read(setup, tmp_path)
    before = write_times(tmp_path)
    index = tmp_path / "shards.jsonl"
    index.write_text(index.read_text()[:-20])  # cut short in the last line
    read(setup, tmp_path)
    after = write_times(tmp_path)
    assert {name for name, time in after.items() if before[name] != time} == {max(before)}
    read(setup, tmp_path)
    assert write_times(tmp_path) == after


def test_a_cache_too_large_is_refused_with_the_ways_out(setup):
    samples = [Sample("long", (0,) * 2_000_000, (True,) * 2_000_000)]
    needed = disk_bytes(samples, 576, CacheRecipe(top=16))
    assert needed == 2_000_000 * (5 + 2 * 576 + 6 * 16)
    check_disk(needed, CacheRecipe(max_gb=2.6))
    with pytest.raises(
        FalconError, match=r"the features take 2\.5 GB, cache\.max_gb allows 2\.4: raise it, take fewer"
    ):
        check_disk(needed, CacheRecipe(max_gb=2.4))


def test_the_estimated_bytes_are_those_on_disk(setup, tmp_path):
    read(setup, tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    estimate = disk_bytes(setup.samples, 32, SMALL.cache)
    assert estimate <= written <= estimate + 800 * len(write_times(tmp_path))  # headers and starts


def test_training_from_disk_goes_as_training_online(setup, training_setup, tmp_path):
    """The features differ by half-precision rounding only, and so do the losses."""
    setup.features = OnlineFeatures(setup.target, setup.samples, 8)
    online = setup.trained(3)
    setup = training_setup()
    setup.features = read(setup, tmp_path)
    assert setup.trained(3) == pytest.approx(online, rel=2e-3)


def test_all_features_come_in_the_order_of_their_texts(setup):
    features = extract_all(setup.target.model, setup.samples, 8, torch.float32)
    assert [tuple(text.tokens_L.tolist()) for text in features] == [sample.tokens for sample in setup.samples]
    assert {text.features_LD.dtype for text in features} == {torch.float32}
