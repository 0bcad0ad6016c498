"""Memory for packed weights."""

import pytest
import torch

from falcon_cli.native.arena import Arena


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_pieces_hold_what_was_settled_and_never_overlap(dtype):
    arena = Arena()
    tensors = [torch.arange(size, dtype=torch.float32).view(-1, 3).to(dtype) for size in (3, 300, 999, 12)]
    settled = [arena.settle(tensor) for tensor in tensors]
    settled[1].fill_(7)
    for number in (0, 2, 3):
        assert torch.equal(settled[number], tensors[number])
        assert settled[number].data_ptr() % 64 == 0, "a whole cache line, for the kernels' loads"


def test_pieces_follow_each_other_in_one_block():
    arena = Arena()
    first, second = (arena.settle(torch.ones(100)) for _ in range(2))
    assert 0 < second.data_ptr() - first.data_ptr() < 1024


def test_what_no_block_holds_gets_its_own():
    large = Arena().settle(torch.ones(20_000_000))
    assert large.sum() == 20_000_000
