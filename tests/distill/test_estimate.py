"""The plan of a run."""

import runpy
import sys

import pytest
import torch

from falcon_cli.distill import estimate
from falcon_cli.distill.corpus.split import Corpus
from falcon_cli.distill.estimate import estimate_run, memory_bytes, peak_memory
from falcon_cli.distill.features.extract import bytes_a_token
from falcon_cli.distill.kernel_copy import KernelCopy
from falcon_cli.recipe.schema import TargetRecipe


def on_torch(target):
    return KernelCopy(TargetRecipe(kernels="torch"), target)


def plan_of(setup, **more):
    return estimate_run(
        setup.recipe,
        on_torch(setup.target),
        setup.student,
        Corpus(setup.samples, setup.samples[:2]),
        steps=10,
        processes=1,
    )


def test_a_plan_counts_texts_tokens_and_disk(training_setup):
    setup = training_setup()
    plan = plan_of(setup)
    tokens = sum(map(len, setup.samples))
    assert (plan.texts, plan.tokens, plan.held_out, plan.steps) == (12, tokens, 2, 10)
    assert plan.answer_tokens == sum(sample.answer_tokens for sample in setup.samples)
    assert plan.disk_gb == pytest.approx(tokens * bytes_a_token(32, setup.recipe.cache.top) / 1e9)
    assert plan.trained_tokens == pytest.approx(tokens * 10 / len(setup.trainer().schedule.epoch(0)), abs=1)
    assert plan.features_per_second > 0 < plan.trained_per_second
    assert plan.to_json()["training_hours"] == plan.training_hours > 0


def test_online_features_take_no_disk_and_their_time_is_training_s(training_setup):
    disk, online = plan_of(training_setup()), plan_of(training_setup(features="online"))
    assert online.disk_gb == online.features_hours == 0
    assert disk.features_hours > 0
    assert any("no features on disk" in line for line in online.lines())


def test_the_trial_leaves_the_drafter_as_it_was(training_setup):
    setup = training_setup()
    before = [parameter.clone() for parameter in setup.student.network.parameters()]
    plan_of(setup)
    assert all(torch.equal(a, b) for a, b in zip(before, setup.student.network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in setup.student.network.parameters())


def test_memory_grows_with_the_size_of_a_forward_not_of_the_batch(training_setup):
    small, large = (training_setup(micro_tokens=tokens) for tokens in (512, 4096))
    assert memory_bytes(large.recipe, large.target, large.student) > memory_bytes(
        small.recipe, small.target, small.student
    )
    assert peak_memory(torch.device("cpu")) > 1e8


def test_without_the_module_resource_the_peak_is_not_told(monkeypatch):
    """As on Windows; other packages look for the system's name before they import it."""
    monkeypatch.setitem(sys.modules, "resource", None)
    fresh = runpy.run_path(str(estimate.__file__))
    assert fresh["peak_memory"](torch.device("cpu")) == 0
