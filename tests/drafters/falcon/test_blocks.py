import pytest
import torch

from falcon_cli.drafters.falcon.blocks import block_L, last_seen_BL, relaxed_causal_BLL, slot_L


def drawn(picture):
    return torch.tensor([[mark == "1" for mark in line.split()] for line in picture.strip().splitlines()])


PHASE_0 = drawn("""
    1 1 . . . .
    1 1 . . . .
    1 1 1 1 . .
    1 1 1 1 . .
    1 1 1 1 1 1
    1 1 1 1 1 1
""")
PHASE_1 = drawn("""
    1 . . . . .
    1 1 1 . . .
    1 1 1 . . .
    1 1 1 1 1 .
    1 1 1 1 1 .
    1 1 1 1 1 1
""")


@pytest.mark.parametrize(("phase", "expected"), [(0, PHASE_0), (1, PHASE_1)])
def test_the_masks_are_those_drawn(phase, expected):
    assert torch.equal(relaxed_causal_BLL(torch.tensor([6]), 6, 2, phase)[0, 0], expected)


@pytest.mark.parametrize("phase", [0, 2])
def test_k_1_is_causal(phase):
    causal_LL = torch.ones(5, 5).tril().bool()
    assert torch.equal(relaxed_causal_BLL(torch.tensor([5]), 5, 1, phase)[0, 0], causal_LL)


def test_slots_and_blocks_begin_within_a_block_by_the_phase():
    assert slot_L(7, 3, 0).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert slot_L(7, 3, 2).tolist() == [3, 1, 2, 3, 1, 2, 3]
    assert block_L(7, 3, 2).tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_padding_is_seen_by_itself_only():
    mask_BLL = relaxed_causal_BLL(torch.tensor([6, 3]), 6, 2, 0)
    assert mask_BLL.shape == (2, 1, 6, 6)
    assert torch.equal(mask_BLL[0, 0], PHASE_0)
    short_LL = mask_BLL[1, 0]
    assert torch.equal(short_LL[:, :3], PHASE_0[:, :3])
    assert torch.equal(short_LL[3:, 3:], torch.eye(3).bool())
    assert not short_LL[:3, 3:].any()


def test_the_last_position_seen_is_the_end_of_the_block_or_of_the_text():
    mask_BLL = relaxed_causal_BLL(torch.tensor([6, 3]), 6, 2, 0)
    assert last_seen_BL(mask_BLL).tolist() == [[1, 1, 3, 3, 5, 5], [1, 1, 2, 3, 4, 5]]
    assert last_seen_BL(relaxed_causal_BLL(torch.tensor([6]), 6, 2, 1)).tolist() == [[0, 2, 2, 4, 4, 5]]
