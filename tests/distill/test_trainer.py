"""The training loop: it learns, it repeats itself exactly, and the portions do not matter."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from falcon_cli.distill.features import Lesson
from falcon_cli.distill.trainer import NotFiniteError

GOLDEN = Path(__file__).parents[1] / "golden" / "distill_losses.json"


@pytest.mark.parametrize("mixer", ["linear", "time", "position"])
def test_the_first_ten_losses_are_those_of_old(classroom, mixer):
    """A change that is meant to change them writes what `trained(10)` gives now into the file."""
    golden = json.loads(GOLDEN.read_text())[mixer]
    assert classroom(mixer=mixer).trained(10) == pytest.approx(golden, rel=2e-4)


def test_the_loss_falls(classroom):
    losses = classroom(steps=40).trained(40)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_two_runs_are_the_same_bit_for_bit(classroom):
    assert classroom().trained(4) == classroom().trained(4)


def test_the_size_of_a_forward_does_not_change_the_losses(classroom):
    assert classroom(micro_tokens=24).trained(4) == pytest.approx(classroom(micro_tokens=512).trained(4), rel=1e-4)


def test_without_glancing_nothing_is_glanced_at(classroom):
    room = classroom(csgd=False)
    report = room.trainer().step(0)
    assert (report.glanced, report.wrong) == (0, 0)
    room = classroom()
    report = room.trainer().step(0)
    assert 0 < report.glanced <= round(0.4 * report.wrong) + len(room.samples)


def test_glancing_ends_with_the_last_step(classroom):
    room = classroom(steps=3)
    trainer = room.trainer()
    glanced = [trainer.step(step).glanced for step in range(3)]
    assert glanced[0] > glanced[2]


def test_a_loss_that_is_no_number_is_reported_before_it_is_learned(classroom):
    room = classroom()
    broken = room.lessons.lessons[3]
    room.lessons.lessons[3] = replace(broken, features_LD=torch.full_like(broken.features_LD, float("nan")))
    trainer = room.trainer()
    step = next(step for step in range(10) if 3 in trainer.schedule.step(step))
    before = [parameter.clone() for parameter in room.pupil.network.parameters()]
    with pytest.raises(NotFiniteError) as caught:
        trainer.step(step)
    assert 3 in caught.value.numbers
    assert all(torch.equal(a, b) for a, b in zip(before, room.pupil.network.parameters(), strict=True))


def test_a_step_tells_accuracy_by_slot_and_counts_its_tokens(classroom):
    room = classroom(k=3)
    report = room.trainer().step(0)
    assert len(report.slots) == 3
    assert all(0 <= share <= 1 for share in report.slots)
    assert report.tokens == sum(len(room.samples[number]) for number in room.lessons.asked[-1])
    assert set(report.line()) >= {"step", "loss", "feature", "kl", "ce", "slots", "tokens", "seconds", "rate", "norm"}


def test_the_loss_is_the_sum_of_its_weighted_parts(classroom):
    room = classroom()
    report = room.trainer().step(0)
    weights = room.recipe.loss
    parts = weights.feature * report.feature + weights.kl * report.kl + weights.ce * report.ce
    assert report.loss == pytest.approx(parts, rel=1e-5)


def test_texts_without_anything_to_learn_do_no_harm(classroom):
    room = classroom()
    room.samples = [replace(sample, answer=(False,) * len(sample)) for sample in room.samples]
    room.lessons.lessons = [
        Lesson(**{**vars(one), "answer_L": torch.zeros_like(one.answer_L)}) for one in room.lessons.lessons
    ]
    assert room.trainer().step(0).loss == 0.0
