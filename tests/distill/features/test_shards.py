"""Shards: read back as written, kept if complete, computed again if damaged or stale."""

import pytest
import torch

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.features.extract import TextFeatures, bytes_a_token
from falcon_cli.distill.features.shards import ShardReader, make_shards, missing, plan_shards

HIDDEN, TOP = 6, 3


def texts(count=7):
    return [Sample(str(n), tuple(range(n, n + 4 + n)), (False, *[True] * (3 + n))) for n in range(count)]


def text(sample):
    length = len(sample)
    draw = torch.Generator().manual_seed(length)
    return TextFeatures(
        torch.tensor(sample.tokens, dtype=torch.int32),
        torch.tensor(sample.answer),
        torch.randn(length, HIDDEN, generator=draw).half(),
        torch.randint(50, (length, TOP), generator=draw, dtype=torch.int32),
        torch.randn(length, TOP, generator=draw).half(),
    )


def read(samples):
    yield from ((number, text(samples[number])) for number in reversed(range(len(samples))))


@pytest.fixture
def written_shards(tmp_path):
    shards = plan_shards(texts(), 16, "a target")
    list(make_shards(tmp_path, missing(tmp_path, shards), read))
    return tmp_path, shards


def test_features_come_back_by_number_in_any_order(written_shards):
    folder, shards = written_shards
    assert len(shards) > 2
    reader = ShardReader(folder, shards)
    assert len(reader) == 7
    for number, features in zip([5, 0, 3], reader.fetch([5, 0, 3]), strict=True):
        for name, value in vars(text(texts()[number])).items():
            assert torch.equal(getattr(features, name), value), name


def test_whole_shards_are_kept(written_shards):
    folder, shards = written_shards
    assert missing(folder, shards) == []


@pytest.mark.parametrize("harm", ["cut", "flip", "delete"])
def test_a_damaged_shard_is_reported_and_computed_again(written_shards, capsys, harm):
    folder, shards = written_shards
    path = folder / shards[1].name
    content = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(content[:-5])
    elif harm == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    assert missing(folder, shards) == [shards[1]]
    assert (shards[1].name in capsys.readouterr().err) == (harm != "delete")
    list(make_shards(folder, [shards[1]], read))
    assert missing(folder, shards) == []


def test_shards_of_another_target_or_other_texts_are_not_used(written_shards):
    folder, shards = written_shards
    assert len(missing(folder, plan_shards(texts(), 16, "another target"))) == len(shards)
    changed = [Sample("0", (9, 9, 9, 9), (False, True, True, True)), *texts()[1:]]
    assert [shard.name for shard in missing(folder, plan_shards(changed, 16, "a target"))] == [shards[0].name]


def test_an_index_line_cut_short_by_a_kill_only_costs_its_shard(written_shards):
    folder, shards = written_shards
    index = folder / "shards.jsonl"
    index.write_text(index.read_text()[:-20])
    assert missing(folder, shards) == shards[-1:]


def test_a_million_tokens_of_smollm2_fit_in_1_3_gigabytes():
    assert 1e6 * bytes_a_token(hidden=576, top=16) <= 1.3e9


def test_the_estimated_bytes_per_token_are_those_on_disk(written_shards):
    folder, shards = written_shards
    tokens = sum(shard.tokens for shard in shards)
    written = sum((folder / shard.name).stat().st_size for shard in shards)
    assert 0 <= written - tokens * bytes_a_token(HIDDEN, TOP) <= 700 * len(shards)  # headers and starts
