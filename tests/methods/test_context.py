"""Models are loaded only where a method needs them."""

import pytest

from falcon_cli.methods.context import DraftingContext
from falcon_cli.recipe.schema import GenerateRecipe, TargetRecipe


@pytest.mark.parametrize("needed", [True, False])
def test_a_draft_model_is_loaded_only_where_a_method_needs_it(monkeypatch, needed):
    monkeypatch.setattr("falcon_cli.methods.context.load_target", lambda recipe, prompt_of=None: recipe)
    sources = GenerateRecipe(
        TargetRecipe("big", revision="v2", dtype="bf16"), draft_model="small", drafter="folder", tree="chain"
    )
    context = DraftingContext.load(sources, needs_draft_model=needed)
    assert context.target == sources.target
    assert (context.drafter, context.tree) == ("folder", "chain")
    assert context.draft_model == (TargetRecipe("small", dtype="bf16") if needed else None)
