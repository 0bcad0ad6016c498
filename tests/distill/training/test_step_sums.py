"""A step's sums: of one forward, of several, and of all processes."""

from types import SimpleNamespace

import pytest
import torch

from falcon_cli.distill.objective.csgd import ForwardResult
from falcon_cli.distill.objective.losses import Losses
from falcon_cli.distill.training.step_sums import StepSums

RIGHT = torch.tensor([True, False, True, True])
RESULT = ForwardResult(
    Losses(*(torch.tensor(value) for value in (8.0, 4.0, 2.0, 1.0)), RIGHT), torch.tensor([1, 1, 3, 3]), 5, 6
)
NAMES = ("loss", "feature", "kl", "ce", "glanced", "wrong", "stop_requests")


def numbers(sums):
    return [float(getattr(sums, name)) for name in NAMES], sums.right_K.tolist(), sums.positions_K.tolist()


def test_a_forward_is_counted_by_slot():
    sums = StepSums.of(RESULT, 3)
    assert numbers(sums) == ([8, 4, 2, 1, 5, 6, 0], [1, 0, 2], [2, 0, 2])
    assert {value.dtype for value in vars(sums).values()} == {torch.float64}


def test_sums_add_up_field_by_field_from_zero():
    zero = StepSums.zero(3, torch.device("cpu"))
    assert numbers(zero) == ([0] * 7, [0] * 3, [0] * 3)
    assert numbers(zero + StepSums.of(RESULT, 3) + StepSums.of(RESULT, 3)) == (
        [16, 8, 4, 2, 10, 12, 0],
        [2, 0, 4],
        [4, 0, 4],
    )


def test_only_losses_become_means():
    assert numbers(StepSums.of(RESULT, 3).mean_losses(4)) == ([2, 1, 0.5, 0.25, 5, 6, 0], [1, 0, 2], [2, 0, 2])


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_are_added_up_in_one_reduction(processes):
    reduced = []

    def reduce(vector, how):
        assert how == "sum"
        reduced.append(vector)
        return vector * processes

    sums = StepSums.of(RESULT, 3).reduced(SimpleNamespace(num_processes=processes, reduce=reduce))
    assert len(reduced) == processes - 1
    counts = ([8, 4, 2, 1, 5, 6, 0], [1, 0, 2], [2, 0, 2])
    assert numbers(sums) == tuple([processes * value for value in part] for part in counts)
