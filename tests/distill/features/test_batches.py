"""Batches are a function of the seed and the step, and every text comes once per epoch."""

import pytest
import torch

from falcon_cli.distill.features.batches import Schedule, collate, generator_of, loss_positions_BL, share
from falcon_cli.distill.features.extract import TextFeatures, padded_batches

LENGTHS = [5, 9, 3, 14, 7, 7, 2, 11, 6, 4, 8, 13]


def text(length, begin=0, hidden=3, top=2):
    tokens = torch.arange(begin, begin + length, dtype=torch.int32)
    return TextFeatures(
        tokens_L=tokens,
        answer_L=tokens % 2 == 1,
        features_LD=tokens[:, None].half() + torch.arange(hidden).half() / 10,
        top_ids_LZ=torch.stack([tokens + 1, tokens + 2], -1)[:, :top],
        top_logprobs_LZ=torch.full((length, top), -0.7).half(),
    )


def test_an_epoch_holds_every_text_once_and_no_batch_is_too_large():
    batches = Schedule(LENGTHS, 20, seed=3).epoch(0)
    assert sorted(text for batch in batches for text in batch) == list(range(len(LENGTHS)))
    assert all(len(batch) * max(LENGTHS[text] for text in batch) <= 20 for batch in batches)


def test_epochs_and_seeds_differ_and_the_same_ones_agree():
    def epoch(seed, number):
        return Schedule(LENGTHS, 20, seed).epoch(number)

    assert epoch(1, 0) == epoch(1, 0)
    assert epoch(1, 0) != epoch(1, 1)
    assert epoch(1, 0) != epoch(2, 0)


def test_a_step_is_found_whatever_was_asked_before():
    straight = Schedule(LENGTHS, 20, seed=0)
    walked = [straight.step(step) for step in range(30)]
    jumped = Schedule(LENGTHS, 20, seed=0)
    assert [jumped.step(step) for step in (29, 0, 17, 5)] == [walked[step] for step in (29, 0, 17, 5)]
    assert sorted(text for step in range(len(straight.epoch(0))) for text in straight.step(step)) == list(range(12))


def test_steps_are_counted_in_epochs():
    schedule = Schedule(LENGTHS, 20, seed=0)
    assert schedule.steps_of(2.0) == 2 * len(schedule.epoch(0))
    assert schedule.steps_of(0.0) == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_step_is_shared_out_whole(world):
    batch = [3, 1, 7, 5, 0, 9]
    parts = [text for rank in range(world) for part in share(batch, LENGTHS, 15, rank, world) for text in part]
    assert sorted(parts) == sorted(batch)


def test_a_text_longer_than_the_limit_makes_a_batch_of_its_own():
    assert list(padded_batches([6, 2, 3], LENGTHS, 6)) == [[6, 2], [3]]


def test_position_i_holds_feature_i_and_token_i_plus_1():
    batch = collate([4, 8], [text(5), text(3, begin=20)], torch.device("cpu"), torch.float32)
    assert batch.tokens_BL.tolist() == [[1, 2, 3, 4], [21, 22, 0, 0]]
    assert batch.features_BLD[:, :, 0].tolist() == [[0, 1, 2, 3], [20, 21, 0, 0]]
    assert batch.length_B.tolist() == [4, 2]
    assert batch.answer_BL.tolist() == [[True, False, True, False], [True, False, False, False]]
    assert batch.top_ids_BLZ[:, :, 0].tolist() == [[1, 2, 3, 4], [21, 22, 0, 0]]
    assert torch.isneginf(batch.top_logprobs_BLZ[1, 2:]).all()


@pytest.mark.parametrize(("k", "expected"), [(1, [1, 3]), (2, [0, 2]), (3, [1]), (6, [])])
def test_position_i_learns_where_token_i_plus_k_plus_1_is_an_answer_s(k, expected):
    batch = collate([0], [text(6)], torch.device("cpu"), torch.float32)  # answers: tokens 1, 3, 5
    assert loss_positions_BL(batch, k)[0].nonzero().flatten().tolist() == expected


def test_a_generator_depends_on_its_keys_alone():
    def draw(*keys):
        return torch.rand(3, generator=generator_of(*keys)).tolist()

    assert draw(0, "noise", 5, 7) == draw(0, "noise", 5, 7)
    assert len({tuple(draw(*keys)) for keys in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]}) == 4
