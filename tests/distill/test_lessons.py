"""Lessons from disk and from the target in the loop are the same."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from falcon_cli.distill.lessons import Online, cached, check_disk, disk_bytes, held_out_lessons
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CacheRecipe


def test_disk_and_online_agree_within_half_precision(classroom, tmp_path, capsys):
    room = classroom()
    recipe = replace(room.recipe, cache=CacheRecipe(shard_tokens=60, top=8))
    disk = cached(room.target, room.samples, recipe, tmp_path / "features", Accelerator(cpu=True))
    online = Online(room.target, room.samples, 8)
    for one, other in zip(disk.fetch([3, 0, 7]), online.fetch([3, 0, 7]), strict=True):
        assert torch.equal(one.tokens_L, other.tokens_L)
        assert torch.equal(one.top_ids_LC, other.top_ids_LC)
        assert one.features_LD.dtype == torch.float16
        torch.testing.assert_close(one.features_LD.float(), other.features_LD, rtol=2e-3, atol=2e-3)
    assert "features: " in capsys.readouterr().err


def test_whole_shards_are_not_made_again(classroom, tmp_path, capsys):
    room = classroom()
    recipe = replace(room.recipe, cache=CacheRecipe(shard_tokens=60, top=8))
    for _ in range(2):
        cached(room.target, room.samples, recipe, tmp_path, Accelerator(cpu=True))
    assert capsys.readouterr().err.count("features: ") == 1


def test_a_cache_that_would_be_too_large_is_refused_before_anything_is_written(classroom):
    room = classroom()
    needed = disk_bytes(room.samples, 32, CacheRecipe())
    check_disk(needed, CacheRecipe(max_gb=1.0))
    with pytest.raises(FalconError, match=r"cache\.max_gb allows 1e-06: raise it"):
        check_disk(needed, CacheRecipe(max_gb=1e-6))


def test_held_out_lessons_are_in_full_precision_and_in_order(classroom):
    room = classroom()
    found = held_out_lessons(room.target, room.samples[:4], 8)
    assert [len(lesson.tokens_L) for lesson in found] == [len(sample) for sample in room.samples[:4]]
    assert found[0].features_LD.dtype == torch.float32
