"""What a method is called is read, or refused with what to do."""

import json

import pytest

from falcon_cli.drafters.falcon.propose import FalconOptions
from falcon_cli.drafters.rivals.lookahead import LookaheadOptions
from falcon_cli.drafters.rivals.pld import PldOptions
from falcon_cli.drafters.rivals.sps import SpsOptions
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods.grammar import MethodChoice, choose
from falcon_cli.methods.table import METHODS
from falcon_cli.recipe.schema import GenerateRecipe, TargetRecipe


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("pld", PldOptions()),
        ("pld:", PldOptions()),
        ("pld:max_ngram=4,length=7", PldOptions(max_ngram=4, length=7)),
        ("lookahead:window=7,ngram=5,guesses=7,prompt_pool=False", LookaheadOptions(7, 5, 7, False)),
        ("sps:gamma=3,min_probability=0.25", SpsOptions(3, 0.25)),
        ("falcon", FalconOptions()),
        ("falcon:drafter=a/b,depth=4", FalconOptions(drafter="a/b", depth=4)),
        ("falcon:drafter=,tree=t.json,nodes=9", FalconOptions(tree="t.json", nodes=9)),
    ],
)
def test_a_method_is_read_with_its_options(text, options):
    choice = choose(text)
    assert (choice.name, choice.options) == (text, options)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("falcon:drafter=runs/k3/drafter,depth=4 as k=3", "k=3"),
        ("falcon:drafter=runs/k3/drafter,depth=4   as  the small one ", "the small one"),
    ],
)
def test_a_method_may_be_called_something_else(text, label):
    choice = choose(text)
    assert choice == MethodChoice(label, "falcon", FalconOptions(drafter="runs/k3/drafter", depth=4))


def test_only_the_last_as_is_a_label():
    choice = choose("falcon:drafter=good as new/drafter as k=2")
    assert (choice.name, choice.options.drafter) == ("k=2", "good as new/drafter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PLD", r"unknown method PLD \(did you mean pld\?\): choose from ar, pld, lookahead, sps"),
        ("", "unknown method : choose from"),
        ("zebra", "unknown method zebra: choose from"),
        ("pld:ngram=3", r"method pld has no option ngram \(did you mean min_ngram\?\): it knows max_ngram, min_ngram"),
        ("ar:window=3", "method ar has no option window: it has none"),
        ("pld:length", "pld:length=: not a whole number"),
        ("pld:length=2.5", "pld:length=2.5: not a whole number"),
        ("pld:length=0", "pld: needs"),
        ("pld:min_ngram=4", "pld: needs"),
        ("lookahead:prompt_pool=yes", "lookahead:prompt_pool=yes: not true or false"),
        ("lookahead:ngram=1", "lookahead: needs"),
        ("sps:min_probability=low", "sps:min_probability=low: not a number"),
        ("sps:min_probability=nan", "sps: needs"),
        ("pld as ", "pld as … what"),
        ("pld:length=3 as", "Write pld:length=3 as LABEL"),
        ("pdl as x", r"unknown method pdl \(did you mean pld\?\)"),
        ("ar as plain", "ar is the baseline of every table and keeps its name: leave out as plain"),
        ("falcon:copy=-1", "falcon: needs"),
        ("falcon:copy=3,length=-1", "falcon: needs copy >= 0 and length >= 0"),
        ("medusa:depth=-1", "a tree needs depth >= 0"),
        ("falcon:nodes=few", "falcon:nodes=few: not a whole number"),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(text, message):
    with pytest.raises(UsageError, match=message):
        choose(text)


OTHER = TargetRecipe("other/model")
PLAIN = ("ar", "pld", "lookahead")


def test_only_sps_asks_for_a_draft_model_and_those_that_are_distilled_for_a_drafter(tmp_path):
    for name in METHODS:
        (tmp_path / "config.json").write_text(
            json.dumps({"method": name if name in TRAINED else "falcon", "format": 1})
        )
        choose(name).check(GenerateRecipe(OTHER, draft_model="small", drafter=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"method": "falcon", "format": 1}')
    with pytest.raises(FalconError, match=r"is no eagle drafter: the method in its config\.json is falcon"):
        choose("eagle").check(GenerateRecipe(OTHER, drafter=str(tmp_path)))
    for name in ("ar", "pld", "lookahead", f"falcon:drafter={tmp_path}"):
        choose(name).check(GenerateRecipe(OTHER))
    for name in ("falcon", "adaptive"):
        with pytest.raises(FalconError, match="no drafter at nowhere"):
            choose(name).check(GenerateRecipe(OTHER, drafter="nowhere"))
    choose("adaptive").check(GenerateRecipe(OTHER))
    with pytest.raises(UsageError, match="sps:gamma=2 needs --draft-model"):
        choose("sps:gamma=2").check(GenerateRecipe(OTHER, drafter="folder"))
    with pytest.raises(UsageError, match="falcon needs --drafter for other/model: the folder of a drafter made by"):
        choose("falcon").check(GenerateRecipe(OTHER, draft_model="small"))
