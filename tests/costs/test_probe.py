import pytest
import torch

from falcon_cli.costs.probe import probed_costs
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.target.setting import Setting
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape


@pytest.fixture
def target(home, tiny_model):
    return TargetModel(tiny_model("llama-gqa", seed=1))


@pytest.fixture
def setting(target):
    return Setting.of(LoadedTarget("tiny", target, None, frozenset(), "fp32"))


def test_sizes_contexts_and_drafts_are_measured(target, setting, tiny_network, home):
    tree = Falcon(tiny_network(target.decoder, k=2), target, TreeShape.chain(2))
    table = probed_costs(target, setting, tree, "own")
    assert [tuple(row)[:3] for row in table.verify.values()] == [(1, 2, 4)] * 2
    assert table.draft[2].of(passes_of(TreeShape.chain(4), 2)) > 0
    assert target.cache.length == 0
    assert probed_costs(target, setting, tree, "own") == table, "as it was kept"
    assert [path.name for path in (home / "costs").glob("probe-*-own.json")]


def test_without_a_drafter_nothing_is_drafted(target, setting):
    table = probed_costs(target, setting, None, "")
    assert table.verify_ms(2, 100) > 0
    assert table.draft[1].first == 0


def test_drafts_that_are_far_too_dear_are_not_measured(target, setting, monkeypatch):
    """Each node costs as much as the first."""
    monkeypatch.setattr("falcon_cli.costs.probe.verify_seconds", lambda target, draft, context: 1e-3 * len(draft))
    table = probed_costs(target, setting, None, "")
    assert list(table.verify[64]) == [1, 2, 4]
    assert torch.is_tensor(target.prefill(torch.arange(3, 9)).features_TD)
