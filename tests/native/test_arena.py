"""Memory for packed weights."""

import pytest
import torch

from falcon_cli.native.arena import Arena


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_pieces_hold_what_was_copied_in_and_never_overlap(dtype):
    arena = Arena()
    tensors = [torch.arange(size, dtype=torch.float32).view(-1, 3).to(dtype) for size in (3, 300, 999, 12)]
    copied = [arena.copy_in(tensor) for tensor in tensors]
    copied[1].fill_(7)
    for number in (0, 2, 3):
        assert torch.equal(copied[number], tensors[number])
        assert copied[number].data_ptr() % 64 == 0, "a whole cache line, for the kernels' loads"


def test_pieces_follow_each_other_in_one_block():
    arena = Arena()
    first, second = (arena.copy_in(torch.ones(100)) for _ in range(2))
    assert 0 < second.data_ptr() - first.data_ptr() < 1024


def test_what_no_block_holds_gets_its_own():
    large = Arena().copy_in(torch.ones(20_000_000))
    assert large.sum() == 20_000_000
