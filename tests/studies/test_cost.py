import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.studies.__main__ import main
from falcon_cli.studies.cost import CostRecipe, costs
from falcon_cli.target.model import TargetModel


def test_every_number_of_nodes_after_every_context(tiny_model):
    target = TargetModel(tiny_model("llama-gqa", 4))
    recipe = CostRecipe(contexts=(0, 9, 40), nodes=(1, 3), rounds=2)
    found = costs(target, recipe)
    assert found.keys() == {(context, nodes) for context in (0, 9, 40) for nodes in (1, 3)}
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert target.cache.length == 0
    with pytest.raises(FalconError, match="context"):
        costs(target, CostRecipe(contexts=(100_000,), rounds=1))


def test_a_shape_decodes_with_an_untrained_drafter_and_is_measured(capsys):
    threads = torch.get_num_threads()
    assert main(["cost", "shape=tiny", "contexts=[16]", "nodes=[1,4]", "rounds=1", "target.threads=1"]) == 0
    torch.set_num_threads(threads)
    said = capsys.readouterr().err
    assert all(words in said for words in ("ar:", "falcon:", "ms a cycle", "peak memory", "tiny, random weights"))
    assert all(words in said for words in ("matrices", "LM head", "attention", "of their limit", "memory gives"))


def test_an_unknown_shape_is_refused():
    with pytest.raises(FalconError, match="shape must be one of 7b, tiny, not 8b"):
        CostRecipe(shape="8b")
