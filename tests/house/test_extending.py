"""The worked example of docs/extending.md is run as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.errors import UsageError
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.methods.table import METHODS, Method
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture
def bigram(monkeypatch):
    """The example's file, executed, and its line put into the table."""
    file, line = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {"Method": Method, "__name__": "falcon_cli.drafters.rivals.bigram"}
    exec(compile(file, "bigram.py", "exec", dont_inherit=True), names)
    monkeypatch.setitem(METHODS, "bigram", eval(f"{{{line}}}", names)["bigram"])
    return names


def test_the_example_drafts_and_is_lossless(bigram, chat_target):
    context = DraftingContext(load_target(TargetRecipe(str(chat_target), kernels="torch")))
    prompt = torch.randint(200, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    plain, drafted = (
        complete(context.target.model, choose(name).build(context), prompt, Stop((), 60))
        for name in ("ar", "bigram:length=2")
    )
    assert drafted.ids == plain.ids
    assert sum(cycle.accepted for cycle in drafted.cycles) > 0
    assert max(cycle.nodes for cycle in drafted.cycles) == 3


def test_its_options_are_checked_as_any_other_s(bigram):
    with pytest.raises(UsageError, match="bigram: needs length >= 1"):
        choose("bigram:length=0")
