import pytest

from falcon_cli.costs.table import CostTable, DraftCost, load_costs, save_costs
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.errors import FalconError
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.model import TargetModel
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.measure import cost_cache
from falcon_cli.tune_tree.measure.cost_cache import check_covers, given_costs, local_costs

TABLE = CostTable("a GPU", "tiny", "fp32", {64: {1: 1.0, 9: 2.0}}, {2: DraftCost(1, 1, 0, 0, 0)}, 0.5)
SETTING = Setting("a CPU", "tiny", "fp32", "torch", 2)


@pytest.fixture
def measured(home, tiny_model, tiny_network, monkeypatch):
    """Ask for the costs of a tiny target; returns them and how often anything was measured."""
    target = TargetModel(tiny_model("llama-gqa", seed=1))
    drafters = {2: Falcon(tiny_network(target.decoder, k=2), target, TreeShape.chain(2))}
    calls = []
    real = cost_cache.verify_costs
    monkeypatch.setattr(cost_cache, "verify_costs", lambda *words: calls.append(1) or real(*words))

    def ask(setting=SETTING, names=("abc",), **keys):
        recipe = TuneTreeRecipe(**{"nodes": 5, "contexts": (16, 10_000), "rounds": 1, **keys})
        return local_costs(recipe, target, setting, drafters, names), len(calls)

    return ask


def test_costs_are_measured_once_for_a_setting_its_drafters_and_sizes(measured):
    table, calls = measured()
    assert (table.device, table.target, table.weights, calls) == ("a CPU", "tiny", "fp32", 1)
    assert list(table.draft) == [2]
    assert [list(row) for row in table.verify.values()] == [[1, 2, 4, 6]] * 2  # five drafted nodes and the root
    assert max(table.verify) < 10_000, "a context must leave room for the nodes"
    assert measured() == (table, 1)
    assert measured(names=("abd",))[1] == 2
    assert measured(nodes=6)[1] == 3
    assert measured(setting=Setting("a CPU", "tiny", "fp32", "torch", 1))[1] == 4
    assert measured(cost="measure")[1] == 5


def test_costs_of_another_machine_are_read_from_the_recipes_file(tmp_path):
    save_costs(tmp_path / "gpu.json", TABLE)
    assert given_costs(TuneTreeRecipe(cost=str(tmp_path / "gpu.json"))) == load_costs(tmp_path / "gpu.json")
    assert given_costs(TuneTreeRecipe()) is given_costs(TuneTreeRecipe(cost="measure")) is None
    with pytest.raises(FalconError, match="cannot read the cost table"):
        given_costs(TuneTreeRecipe(cost=str(tmp_path / "nowhere.json")))


def test_a_table_must_know_every_k():
    check_covers(TABLE, {2: None})
    with pytest.raises(FalconError, match="knows drafts of k = 2, not of k = 1: add it"):
        check_covers(TABLE, {2: None, 1: None})
