"""That everything asked for is measured; what it costs is nobody's promise."""

from dataclasses import astuple, replace
from math import isfinite
from random import Random

import pytest
import torch

from falcon_cli.costs import measure
from falcon_cli.costs.measure import Rounds, draft_costs, rest_cost, verify_costs, with_interference
from falcon_cli.costs.table import CostTable, DraftCost
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape

PLAN = Rounds(contexts=(4, 70), nodes=(1, 2, 5), rounds=2)
PROMPT = [3, 14, 15, 9, 2, 6]


@pytest.fixture
def target(tiny_model):
    return TargetModel(tiny_model("llama-gqa", seed=1))


def plain(target):
    return complete(target, Autoregressive(target.device), PROMPT, Stop((), 20)).ids


def test_every_context_and_size_is_measured_and_the_target_serves_on(target):
    expected, ticks = plain(target), []
    found = verify_costs(target, PLAN, lambda: ticks.append(1))
    assert {context: tuple(row) for context, row in found.items()} == {4: (1, 2, 5), 70: (1, 2, 5)}
    assert all(0 < ms < 10_000 for row in found.values() for ms in row.values())
    assert target.cache.length == 70
    assert plain(target) == expected
    assert len(ticks) == 2 * (PLAN.rounds + 2)


def test_every_drafter_is_measured_and_the_target_serves_on(target, tiny_network):
    expected, ticks = plain(target), []
    drafters = {
        k: Falcon(tiny_network(target.decoder, k=k), target, TreeShape.chain(k), vocabulary_W)
        for k, vocabulary_W in ((1, None), (2, torch.arange(0, 48, 12)), (3, None))
    }
    found = draft_costs(target, drafters, PLAN, lambda: ticks.append(1))
    assert list(found) == [1, 2, 3]
    for k, parts in found.items():
        assert all(isfinite(ms) and ms >= 0 for ms in astuple(parts))
        assert parts.of(passes_of(TreeShape.chain(2 * k), k)) > 0
    assert plain(target) == expected
    assert PLAN.total == len(ticks) + 2 * (PLAN.rounds + 2)
    assert all(drafter.shape == TreeShape.chain(k) for k, drafter in drafters.items())


def test_what_is_measured_is_the_median_of_the_rounds_that_count(target, monkeypatch):
    """A clock by hand: warming rounds and the first of two forwards take long, the others 1, 5 and 2 seconds."""
    seconds = [99, 99, 99, 99, 77, 1, 77, 5, 77, 2]
    times = [at for one in seconds for at in (0.0, float(one))]
    monkeypatch.setattr(measure, "perf_counter", iter(times).__next__)
    assert verify_costs(target, Rounds((4,), (2,), 3), lambda: None) == {4: {2: 2000.0}}


def test_the_rest_is_not_negative(target):
    assert 0 <= rest_cost(target, tokens=6) < 1000


@pytest.mark.parametrize(("behind", "beyond"), [((5.0, 9.0), 8.0), ((2.0, 1.0), 0.0)])
def test_what_a_cycle_takes_beyond_its_parts_goes_to_the_draft_and_nothing_less(
    target, tiny_network, monkeypatch, behind, beyond
):
    """By a clock of our own a draft takes 4 ms and a verification 2, each behind its like; else what `behind` says."""
    expected = plain(target)
    drafters = {
        k: Falcon(tiny_network(target.decoder, k=k), target, TreeShape.chain(k), vocabulary_W)
        for k, vocabulary_W in ((1, torch.arange(0, 48, 12)), (2, None))
    }
    clock, last = [0.0], [""]

    def takes(name, alone, after_others):
        real = getattr(*name)

        def timed(*words):
            clock[0] += (alone if last[0] == name[1] else after_others) / 1e3
            last[0] = name[1]
            return real(*words)

        monkeypatch.setattr(*name, timed)

    takes((Falcon, "propose"), 4.0, behind[0])
    takes((TargetModel, "score"), 2.0, behind[1])
    monkeypatch.setattr(measure, "perf_counter", lambda: clock[0])
    parts = DraftCost(0.001, 0, 0, 0, 0)
    table = CostTable("", "", "", {64: {1: 1.0, 2: 1.0}}, dict.fromkeys(drafters, parts), 0.0)
    found = with_interference(table, target, drafters, context=1000)
    for parts_of_k in found.draft.values():
        assert parts_of_k.first == pytest.approx(parts.first + beyond)
        assert replace(parts_of_k, first=parts.first) == parts
    assert replace(found, draft=table.draft) == table
    monkeypatch.undo()
    assert plain(target) == expected


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("truth", [DraftCost(3.0, 0.7, 0.2, 0.5, 0.05), DraftCost(0.1, 2.0, 0.0, 0.0, 0.4)])
def test_a_few_trees_tell_what_every_tree_costs(random_paths, k, chained, truth):
    measured = [passes_of(shape, k, chained) for shape in measure._trial_shapes(k, 48)]
    found = measure._fitted_parts([(passes, truth.of(passes)) for passes in measured])
    generator = torch.Generator().manual_seed(k)
    for nodes in (4, 12, 40):
        other = passes_of(TreeShape.from_paths(random_paths(nodes, generator)), k, chained)
        assert found.of(other) == pytest.approx(truth.of(other), abs=1e-6)
    if k > 1:  # else every pass has one slot, and every row one feature: parts that always come together
        assert astuple(found) == pytest.approx(astuple(truth), abs=1e-6)


@pytest.mark.parametrize("choices", [1, 2, 4, 48])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_tree_asks_for_more_choices_than_there_are(k, choices):
    shapes = measure._trial_shapes(k, choices)
    assert len(set(shapes)) == len(shapes)
    assert all(max(shape.ranks) < choices for shape in shapes)
    assert {-(-shape.height // k) for shape in shapes} == {1, 2, 3}


def test_no_part_is_negative_whatever_the_noise():
    rng, dropped = Random(0), 0
    for _ in range(60):
        k = rng.choice((1, 2, 3))
        truth = DraftCost(*(rng.choice((0.0, rng.random())) for _ in range(5)))
        measured = []
        for shape in measure._trial_shapes(k, 48):
            passes = passes_of(shape, k, True)
            measured.append((passes, truth.of(passes) + rng.uniform(0, 0.5)))
        parts = astuple(measure._fitted_parts(measured))
        assert all(isfinite(ms) and ms >= 0 for ms in parts)
        dropped += 0.0 in parts
    assert dropped > 9, "noise that turns no part negative proves nothing"


def test_tokens_are_any_that_a_small_vocabulary_has():
    assert len(measure._ids(99)) == 99
    assert max(measure._ids(99)) < 48
