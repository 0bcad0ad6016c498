import pytest
import torch

from falcon_cli.drafters.falcon.blocks import Blocks, block_L, slot_L


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
    assert torch.equal(Blocks.of_texts(torch.tensor([6]), 6, 2, phase).mask_BLL[0, 0], expected)


@pytest.mark.parametrize("phase", [0, 2])
def test_k_1_is_causal(phase):
    causal_LL = torch.ones(5, 5).tril().bool()
    assert torch.equal(Blocks.of_texts(torch.tensor([5]), 5, 1, phase).mask_BLL[0, 0], causal_LL)


def test_slots_and_blocks_begin_within_a_block_by_the_phase():
    assert slot_L(7, 3, 0).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert slot_L(7, 3, 2).tolist() == [3, 1, 2, 3, 1, 2, 3]
    assert block_L(7, 3, 2).tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_padding_is_seen_by_itself_only():
    mask_BLL = Blocks.of_texts(torch.tensor([6, 3]), 6, 2, 0).mask_BLL
    assert mask_BLL.shape == (2, 1, 6, 6)
    assert torch.equal(mask_BLL[0, 0], PHASE_0)
    short_LL = mask_BLL[1, 0]
    assert torch.equal(short_LL[:, :3], PHASE_0[:, :3])
    assert torch.equal(short_LL[3:, 3:], torch.eye(3).bool())
    assert not short_LL[:3, 3:].any()


def test_the_last_position_seen_is_the_end_of_the_block_or_of_the_text():
    blocks = Blocks.of_texts(torch.tensor([6, 3]), 6, 2, 0)
    assert blocks.last_BL.tolist() == [[1, 1, 3, 3, 5, 5], [1, 1, 2, 3, 4, 5]]
    assert Blocks.of_texts(torch.tensor([6]), 6, 2, 1).last_BL.tolist() == [[0, 2, 2, 4, 4, 5]]


@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize(("k", "phase"), [(1, 0), (2, 1), (3, 0), (3, 2), (4, 3)])
def test_last_and_slot_follow_from_the_mask(k, phase, streams):
    blocks = Blocks.of_texts(torch.tensor([9, 4]), 9, k, phase, streams)
    seen = blocks.mask_BLL[:, 0]
    last_seen = seen.shape[-1] - 1 - seen.flip(-1).to(torch.uint8).argmax(-1)
    assert torch.equal(blocks.last_BL, last_seen)
    row = torch.arange(9 * streams)
    assert torch.equal(blocks.slot_BL, (k - (last_seen - row)).clamp(1, k))
    assert torch.equal(blocks.later_BL, blocks.slot_BL > 1)
    assert torch.equal(blocks.position_BL, (row % 9)[None])


def test_a_whole_text_s_slots_are_those_of_its_phase():
    assert Blocks.of_texts(torch.tensor([7]), 7, 3, 2).slot_BL[0].tolist() == slot_L(7, 3, 2).tolist()


def test_rows_of_a_pass_are_counted_from_their_block_s_last_row():
    blocks = Blocks.of_rows(torch.arange(5, 11), 3, 2)
    assert blocks.position_BL.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert blocks.last_BL.tolist() == [[2, 2, 2, 5, 5, 5]]
    assert blocks.slot_BL.tolist() == [[1, 1, 2, 1, 1, 2]]
    assert blocks.mask_BLL is None
