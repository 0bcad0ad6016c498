"""Coupled sequential glancing: how many, where, and what is shown."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.distill.objective.glancing import glanced_L, one_block_ahead, ratio
from falcon_cli.drafters.falcon.blocks import block_L, slot_L


@st.composite
def texts(draw):
    k, length = draw(st.integers(1, 4)), draw(st.integers(1, 30))
    inputs = draw(st.integers(1, length))
    wrong = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    wrong = [is_wrong and place < inputs for place, is_wrong in enumerate(wrong)]
    return k, draw(st.integers(0, k - 1)), inputs, torch.tensor(wrong), draw(st.floats(0, 1)), draw(st.integers(0, 99))


def glance(k, phase, inputs, wrong_L, share, seed):
    blocks, slots = block_L(len(wrong_L), k, phase), slot_L(len(wrong_L), k, phase)
    return blocks, slots, glanced_L(wrong_L, blocks, slots, k, inputs, share, torch.Generator().manual_seed(seed))


@given(texts())
def test_glanced_positions_lie_in_disagreeing_blocks_never_last_and_have_an_answer_to_show(text):
    k, _phase, inputs, wrong_L, _, _ = text
    blocks, slots, glanced = glance(*text)
    disagreeing = set(blocks[wrong_L].tolist())
    for place in glanced.nonzero().flatten().tolist():
        assert int(blocks[place]) in disagreeing
        assert int(slots[place]) < k
        assert place + k < inputs


@given(texts())
def test_exactly_lambda_times_the_wrong_are_glanced_or_all_eligible(text):
    k, _phase, inputs, wrong_L, share, _ = text
    blocks, slots, glanced = glance(*text)
    disagreeing = set(blocks[wrong_L].tolist())
    eligible = [
        place
        for place in range(len(wrong_L))
        if int(blocks[place]) in disagreeing and int(slots[place]) < k and place + k < inputs
    ]
    assert int(glanced.sum()) == min(round(share * int(wrong_L.sum())), len(eligible))


@given(texts())
def test_a_block_is_glanced_from_its_first_position_on_without_gaps(text):
    _k, phase, *_ = text
    blocks, slots, glanced = glance(*text)
    for block in range(int(blocks[-1]) + 1):
        inside = (blocks == block).nonzero().flatten().tolist()
        shown = [place for place in inside if glanced[place]]
        assert shown == inside[: len(shown)]
        assert block == 0 or not shown or int(slots[shown[0]]) == 1 or phase == 0


@given(texts())
def test_at_most_one_block_is_glanced_in_part(text):
    k, _, inputs, *_ = text
    blocks, slots, glanced = glance(*text)
    partial = 0
    for block in set(blocks[glanced].tolist()):
        could = [
            place
            for place in range(len(glanced))
            if int(blocks[place]) == block and int(slots[place]) < k and place + k < inputs
        ]
        partial += sum(bool(glanced[place]) for place in could) < len(could)
    assert partial <= 1


def test_every_disagreeing_block_is_glanced_sooner_or_later():
    wrong_L = torch.ones(12, dtype=torch.bool)
    seen = torch.zeros(12, dtype=torch.bool)
    for seed in range(40):
        seen |= glance(2, 0, 12, wrong_L, 0.1, seed)[2]
    assert seen.tolist() == [True, False] * 5 + [False, False]  # the last block has no block ahead to show


def test_with_one_token_a_pass_there_is_nothing_to_glance_at():
    assert not glance(1, 0, 9, torch.ones(9, dtype=torch.bool), 1.0, 0)[2].any()


def test_feature_and_token_of_a_glanced_position_come_together_from_one_block_ahead():
    tokens_BL = torch.arange(6)[None]
    features_BLD = torch.arange(6.0)[None, :, None] * 10
    glanced_BL = torch.tensor([[True, False, False, True, False, False]])
    assert one_block_ahead(tokens_BL, glanced_BL, 2).tolist() == [[2, 1, 2, 5, 4, 5]]
    assert one_block_ahead(features_BLD, glanced_BL, 2)[0, :, 0].tolist() == [20, 10, 20, 50, 40, 50]


def test_the_ratio_falls_linearly_to_nothing():
    assert [round(ratio(0.4, step, 4), 3) for step in range(5)] == [0.4, 0.3, 0.2, 0.1, 0.0]
