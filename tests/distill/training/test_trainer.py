"""The training loop: it learns, it repeats itself exactly, and the size of a forward does not matter."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from falcon_cli.distill.features.extract import TextFeatures
from falcon_cli.distill.training.trainer import NotFiniteError

GOLDEN = Path(__file__).parents[2] / "golden" / "distill_losses.json"


@pytest.mark.parametrize("mixer", ["linear", "time", "position"])
def test_the_first_ten_losses_are_the_golden_ones(training_setup, mixer):
    """A change that is meant to change them writes what `trained(10)` gives now into the file."""
    golden = json.loads(GOLDEN.read_text())[mixer]
    assert training_setup(mixer=mixer).trained(10) == pytest.approx(golden, rel=2e-4)


def test_the_loss_falls(training_setup):
    losses = training_setup(steps=40).trained(40)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_two_runs_are_the_same_bit_for_bit(training_setup):
    assert training_setup().trained(4) == training_setup().trained(4)


def test_the_size_of_a_forward_does_not_change_the_losses(training_setup):
    assert training_setup(micro_tokens=24).trained(4) == pytest.approx(
        training_setup(micro_tokens=512).trained(4), rel=1e-4
    )


def test_without_glancing_nothing_is_glanced_at(training_setup):
    setup = training_setup(csgd=False)
    report = setup.trainer().step(0)
    assert (report.glanced, report.wrong) == (0, 0)
    setup = training_setup()
    report = setup.trainer().step(0)
    assert 0 < report.glanced <= round(0.4 * report.wrong) + len(setup.samples)


def test_glancing_ends_with_the_last_step(training_setup):
    setup = training_setup(steps=3)
    trainer = setup.trainer()
    glanced = [trainer.step(step).glanced for step in range(3)]
    assert glanced[0] > glanced[2]


def test_a_loss_that_is_not_finite_is_reported_before_the_step(training_setup):
    setup = training_setup()
    broken = setup.features.texts[3]
    setup.features.texts[3] = replace(broken, features_LD=torch.full_like(broken.features_LD, float("nan")))
    trainer = setup.trainer()
    step = next(step for step in range(10) if 3 in trainer.schedule.step(step))
    before = [parameter.clone() for parameter in setup.student.network.parameters()]
    with pytest.raises(NotFiniteError) as caught:
        trainer.step(step)
    assert 3 in caught.value.numbers
    assert all(torch.equal(a, b) for a, b in zip(before, setup.student.network.parameters(), strict=True))


def test_a_step_reports_accuracy_by_slot_and_counts_its_tokens(training_setup):
    setup = training_setup(k=3)
    report = setup.trainer().step(0)
    assert len(report.slots) == 3
    assert all(0 <= share <= 1 for share in report.slots)
    assert report.tokens == sum(len(setup.samples[number]) for number in setup.features.asked[-1])
    assert set(report.line()) >= {"step", "loss", "feature", "kl", "ce", "slots", "tokens", "seconds", "rate", "norm"}


def test_the_loss_is_the_sum_of_its_weighted_parts(training_setup):
    setup = training_setup()
    report = setup.trainer().step(0)
    weights = setup.recipe.loss
    parts = weights.feature * report.feature + weights.kl * report.kl + weights.ce * report.ce
    assert report.loss == pytest.approx(parts, rel=1e-5)


def test_texts_without_anything_to_learn_do_no_harm(training_setup):
    setup = training_setup()
    setup.samples = [replace(sample, answer=(False,) * len(sample)) for sample in setup.samples]
    setup.features.texts = [
        TextFeatures(**{**vars(text), "answer_L": torch.zeros_like(text.answer_L)}) for text in setup.features.texts
    ]
    assert setup.trainer().step(0).loss == 0.0
