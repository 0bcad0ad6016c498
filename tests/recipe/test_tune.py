"""What a recipe for `falcon tune-tree` may say."""

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.tune import QUICK, TuneTreeRecipe


def test_quick_means_less_of_everything():
    usual, quick = TuneTreeRecipe(), load_recipe(TuneTreeRecipe, None, QUICK)
    assert quick.prompts * quick.max_new_tokens < usual.prompts * usual.max_new_tokens / 3
    assert (quick.validation_prompts, quick.rounds, quick.nodes) < (usual.validation_prompts, usual.rounds, usual.nodes)
    assert len(quick.contexts) < len(usual.contexts)
    assert quick.cost == usual.cost


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("nodes=0", "nodes must be at least 1"),
        ("prompts=1", "prompts must be at least 2"),
        ("validation_prompts=-1", "validation_prompts must be at least 0"),
        ("contexts=[]", "contexts must name at least one length"),
        ("contexts=[0]", "contexts must name at least one length, from 1"),
        ("node=8", "did you mean nodes"),
    ],
)
def test_what_makes_no_sense_is_refused(said, complaint):
    with pytest.raises(FalconError, match=complaint):
        load_recipe(TuneTreeRecipe, None, [said])
