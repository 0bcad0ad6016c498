import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from falcon_cli.bench.figures.summary import BASELINE
from falcon_cli.drafters.falcon.propose import FalconOptions
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.lookahead import Lookahead, LookaheadOptions
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.rivals.sps import SpeculativeSampling, SpsOptions
from falcon_cli.drafters.saved.checkpoint import FORMS, save_drafter
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods import (
    METHODS,
    Choice,
    DraftingContext,
    check_same_vocabulary,
    choose,
    default_method,
    default_methods,
)
from falcon_cli.recipe.schema import GenerateRecipe, TargetRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree, default_tree, save_tree


def loaded(name, words, rows=None):
    """As much of a loaded model as a drafter's builder looks at."""
    model = SimpleNamespace(device=torch.device("cpu"), vocab_size=rows or len(words))
    tokenizer = SimpleNamespace(get_vocab=lambda: {word: number for number, word in enumerate(words)})
    return SimpleNamespace(name=name, model=model, tokenizer=tokenizer)


KIT = DraftingContext(loaded("big", "abc"), loaded("small", "abc"))


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
    assert choice == Choice(label, METHODS["falcon"], FalconOptions(drafter="runs/k3/drafter", depth=4))


def test_only_the_last_as_is_a_label():
    choice = choose("falcon:drafter=good as new/drafter as k=2")
    assert (choice.name, choice.options.drafter) == ("k=2", "good as new/drafter")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ar", Autoregressive), ("pld", PromptLookup), ("lookahead", Lookahead), ("sps", SpeculativeSampling)],
)
def test_a_choice_builds_its_drafter(name, kind):
    assert type(choose(name).build(KIT)) is kind


def test_the_table_holds_the_baseline_and_every_method_says_what_it_is():
    assert BASELINE in METHODS
    assert all(method.summary for method in METHODS.values())


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
        (tmp_path / "config.json").write_text(json.dumps({"method": name if name in FORMS else "falcon", "format": 1}))
        choose(name).check(GenerateRecipe(OTHER, draft_model="small", drafter=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"method": "falcon", "format": 1}')
    with pytest.raises(FalconError, match=r"is no eagle drafter: the method in its config\.json is falcon"):
        choose("eagle").check(GenerateRecipe(OTHER, drafter=str(tmp_path)))
    for name in ("ar", "pld", "lookahead", f"falcon:drafter={tmp_path}"):
        choose(name).check(GenerateRecipe(OTHER))
    with pytest.raises(FalconError, match="no drafter at nowhere"):
        choose("falcon").check(GenerateRecipe(OTHER, drafter="nowhere"))
    with pytest.raises(UsageError, match="sps:gamma=2 needs --draft-model"):
        choose("sps:gamma=2").check(GenerateRecipe(OTHER, drafter="folder"))
    with pytest.raises(UsageError, match="falcon needs --drafter for other/model: the folder of a drafter made by"):
        choose("falcon").check(GenerateRecipe(OTHER, draft_model="small"))


def test_falcon_is_the_default_where_it_has_a_drafter(monkeypatch, tmp_path):
    plain = GenerateRecipe(OTHER)
    assert (default_method(plain), default_methods(plain)) == ("pld", PLAIN)
    given = GenerateRecipe(OTHER, drafter="folder")
    assert (default_method(given), default_methods(given)) == (
        "falcon:copy=auto",
        (*PLAIN, "falcon", "falcon:copy=auto"),
    )
    monkeypatch.setattr(
        "falcon_cli.methods.shipped",
        lambda name, method: (
            tmp_path if (name, method) in (("other/model", "falcon"), ("other/model", "medusa")) else None
        ),
    )
    assert default_method(plain) == "falcon:copy=auto"
    assert default_methods(plain) == (*PLAIN, "medusa", "falcon", "falcon:copy=auto")
    assert default_method(GenerateRecipe(TargetRecipe("another/model"))) == "pld"


def test_a_drafter_given_decides_the_method(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"method": "eagle", "format": 1}')
    given = GenerateRecipe(OTHER, drafter=str(tmp_path))
    assert (default_method(given), default_methods(given)) == ("eagle", (*PLAIN, "eagle"))
    choose("eagle").check(given)


@pytest.fixture
def kit(tiny_model, tiny_network, tmp_path):
    """A target and a drafter of its own, k = 2."""
    tokenizer = loaded("tiny", [f"word{number}" for number in range(48)]).tokenizer
    target = LoadedTarget("tiny", TargetModel(tiny_model()), tokenizer, frozenset(), "fp32")
    save_drafter(tmp_path / "drafter", tiny_network(target.model.decoder, k=2), None, target, {})
    return DraftingContext(target, drafter=str(tmp_path / "drafter"))


def test_falcon_takes_the_tree_given_else_the_drafters_else_the_built_in_one(kit, tmp_path):
    assert choose("falcon").build(kit).shape == default_tree(2)
    save_tree(tmp_path / "drafter" / "tree.json", StoredTree(2, TreeShape.chain(4)))
    save_tree(tmp_path / "other.json", StoredTree(2, TreeShape.chain(6)))
    assert choose("falcon").build(kit).shape == TreeShape.chain(4)
    assert choose("falcon:depth=2").build(kit).shape == TreeShape.chain(2)
    assert choose(f"falcon:tree={tmp_path / 'other.json'},nodes=5").build(kit).shape == TreeShape.chain(5)
    save_tree(tmp_path / "other.json", StoredTree(3, TreeShape.chain(6)))
    with pytest.raises(FalconError, match="is a tree for k = 3, the drafter has k = 2"):
        choose(f"falcon:tree={tmp_path / 'other.json'}").build(kit)


def test_falcon_copies_as_many_tokens_as_told_else_as_tuned_else_seven(kit, tmp_path):
    def copied(spec):
        return choose(spec).build(kit).copier.options

    assert copied("falcon:copy=3") == PldOptions(max_ngram=3, min_ngram=3, length=7)
    assert copied("falcon:copy=auto") == PldOptions(max_ngram=3, min_ngram=3, length=7)
    tuned = StoredTree(2, TreeShape.chain(4), copying=CopyPolicy(4, 5, TreeShape.chain(1)))
    save_tree(tmp_path / "drafter" / "tree.json", tuned)
    assert copied("falcon:copy=auto") == PldOptions(max_ngram=4, min_ngram=4, length=5)
    assert copied("falcon:copy=2") == PldOptions(max_ngram=2, min_ngram=2, length=5)
    assert copied("falcon:copy=auto,length=4") == PldOptions(max_ngram=4, min_ngram=4, length=4)


def test_beside_copies_stands_the_tree_tuned_for_that(kit, tmp_path):
    save_tree(tmp_path / "drafter" / "tree.json", StoredTree(2, TreeShape.chain(4)))
    assert choose("falcon:copy=auto").build(kit).falcon.shape == TreeShape.chain(4)
    tuned = StoredTree(2, TreeShape.chain(4), copying=CopyPolicy(2, 5, TreeShape.chain(2)))
    save_tree(tmp_path / "drafter" / "tree.json", tuned)
    assert choose("falcon").build(kit).shape == TreeShape.chain(4)
    assert choose("falcon:copy=auto").build(kit).falcon.shape == TreeShape.chain(2)
    assert choose("falcon:copy=3,depth=1").build(kit).falcon.shape == TreeShape.chain(1)


def test_where_copies_were_found_too_dear_auto_copies_nothing(kit, tmp_path):
    tuned = StoredTree(2, TreeShape.chain(4), copying=CopyPolicy(3, 0, TreeShape.chain(4)))
    save_tree(tmp_path / "drafter" / "tree.json", tuned)
    assert choose("falcon:copy=auto").build(kit).shape == TreeShape.chain(4)
    assert choose("falcon:copy=3").build(kit).copier.options.length == 7


def test_where_no_tree_pays_copies_are_still_made(kit, tmp_path, capsys):
    plain = StoredTree(2, TreeShape(()), {"plain": True}, CopyPolicy(2, 5, TreeShape(())))
    save_tree(tmp_path / "drafter" / "tree.json", plain)
    assert isinstance(choose("falcon").build(kit), Autoregressive)
    assert "decoding plainly (another --tree drafts)" in capsys.readouterr().err
    copier = choose("falcon:copy=3").build(kit)
    assert isinstance(copier, PromptLookup)
    assert copier.options == PldOptions(max_ngram=3, min_ngram=3, length=5)
    assert "plainly" not in capsys.readouterr().err
    save_tree(tmp_path / "drafter" / "tree.json", replace(plain, copying=CopyPolicy(2, 5, TreeShape.chain(1))))
    assert choose("falcon:copy=auto").build(kit).falcon.shape == TreeShape.chain(1)
    assert "plainly" not in capsys.readouterr().err


def test_a_drafter_named_with_the_method_wins(kit, tmp_path):
    with pytest.raises(FalconError, match=r"no drafter at .*nowhere"):
        choose(f"falcon:drafter={tmp_path / 'nowhere'}").build(kit)
    assert choose(f"falcon:drafter={kit.drafter}").build(DraftingContext(kit.target))
    with pytest.raises(UsageError, match="falcon needs --drafter for tiny"):
        choose("falcon").build(DraftingContext(kit.target))


def test_a_draft_model_must_mean_the_same_by_an_id():
    check_same_vocabulary(KIT.target, loaded("padded", "abc", rows=8))
    for other in (loaded("longer", "abcd"), loaded("turned", "acb")):
        with pytest.raises(FalconError, match=f"draft model {other.name} has another vocabulary than big"):
            check_same_vocabulary(KIT.target, other)
    with pytest.raises(FalconError, match="draft model cut scores 2 tokens, the vocabulary has 3"):
        choose("sps").build(DraftingContext(KIT.target, loaded("cut", "abc", rows=2)))
