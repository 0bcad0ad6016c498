"""Drafters are built with the tree and the copies that are given, tuned or built in."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.lookahead import Lookahead
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.rivals.sps import SpeculativeSampling
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods.build import check_same_vocabulary
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree, default_tree, save_tree


def loaded(name, words, rows=None, added=()):
    """As much of a loaded model as a drafter's builder looks at."""
    rows = rows or len(words) + len(added)
    model = SimpleNamespace(device=torch.device("cpu"), vocab_size=rows, embedding_rows=rows)
    vocabulary = {word: number for number, word in enumerate([*words, *added])}
    tokenizer = SimpleNamespace(
        get_vocab=lambda: vocabulary, get_added_vocab=lambda: {word: vocabulary[word] for word in added}
    )
    return SimpleNamespace(name=name, model=model, tokenizer=tokenizer)


CONTEXT = DraftingContext(loaded("big", "abc"), loaded("small", "abc"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ar", Autoregressive), ("pld", PromptLookup), ("lookahead", Lookahead), ("sps", SpeculativeSampling)],
)
def test_a_choice_builds_its_drafter(name, kind):
    assert type(choose(name).build(CONTEXT)) is kind


@pytest.fixture
def context(tiny_model, tiny_network, tmp_path):
    """A target and a drafter of its own, k = 2."""
    tokenizer = loaded("tiny", [f"word{number}" for number in range(48)]).tokenizer
    target = LoadedTarget("tiny", TargetModel(tiny_model()), tokenizer, frozenset(), "fp32")
    save_drafter(tmp_path / "drafter", tiny_network(target.model.decoder, k=2), None, target, {})
    return DraftingContext(target, drafter=str(tmp_path / "drafter"))


def test_falcon_takes_the_tree_given_else_the_drafters_else_the_built_in_one(context, tmp_path):
    assert choose("falcon").build(context).shape == default_tree(2)
    save_tree(tmp_path / "drafter" / "tree.json", StoredTree(2, TreeShape.chain(4)))
    save_tree(tmp_path / "other.json", StoredTree(2, TreeShape.chain(6)))
    assert choose("falcon").build(context).shape == TreeShape.chain(4)
    assert choose("falcon:depth=2").build(context).shape == TreeShape.chain(2)
    assert choose(f"falcon:tree={tmp_path / 'other.json'},nodes=5").build(context).shape == TreeShape.chain(5)
    save_tree(tmp_path / "other.json", StoredTree(3, TreeShape.chain(6)))
    with pytest.raises(FalconError, match="is a tree for k = 3, the drafter has k = 2"):
        choose(f"falcon:tree={tmp_path / 'other.json'}").build(context)


def test_falcon_copies_as_many_tokens_as_told_else_as_tuned_else_seven(context, tmp_path):
    def copied(spec):
        return choose(spec).build(context).lookup.options

    assert copied("falcon:copy=3") == PldOptions(max_ngram=3, min_ngram=3, length=7)
    assert copied("falcon:copy=auto") == PldOptions(max_ngram=3, min_ngram=3, length=7)
    tuned = StoredTree(2, TreeShape.chain(4), copying=CopyPolicy(4, 5, TreeShape.chain(1)))
    save_tree(tmp_path / "drafter" / "tree.json", tuned)
    assert copied("falcon:copy=auto") == PldOptions(max_ngram=4, min_ngram=4, length=5)
    assert copied("falcon:copy=2") == PldOptions(max_ngram=2, min_ngram=2, length=5)
    assert copied("falcon:copy=auto,length=4") == PldOptions(max_ngram=4, min_ngram=4, length=4)


def test_beside_copies_stands_the_tree_tuned_for_that(context, tmp_path):
    save_tree(tmp_path / "drafter" / "tree.json", StoredTree(2, TreeShape.chain(4)))
    assert choose("falcon:copy=auto").build(context).tree.shape == TreeShape.chain(4)
    tuned = StoredTree(2, TreeShape.chain(4), copying=CopyPolicy(2, 5, TreeShape.chain(2)))
    save_tree(tmp_path / "drafter" / "tree.json", tuned)
    assert choose("falcon").build(context).shape == TreeShape.chain(4)
    assert choose("falcon:copy=auto").build(context).tree.shape == TreeShape.chain(2)
    assert choose("falcon:copy=3,depth=1").build(context).tree.shape == TreeShape.chain(1)


def test_where_copies_were_found_too_dear_auto_copies_nothing(context, tmp_path):
    tuned = StoredTree(2, TreeShape.chain(4), copying=CopyPolicy(3, 0, TreeShape.chain(4)))
    save_tree(tmp_path / "drafter" / "tree.json", tuned)
    assert choose("falcon:copy=auto").build(context).shape == TreeShape.chain(4)
    assert choose("falcon:copy=3").build(context).lookup.options.length == 7


def test_where_no_tree_pays_copies_are_still_made(context, tmp_path, capsys):
    plain = StoredTree(2, TreeShape(()), {"plain": True}, CopyPolicy(2, 5, TreeShape(())))
    save_tree(tmp_path / "drafter" / "tree.json", plain)
    assert isinstance(choose("falcon").build(context), Autoregressive)
    assert "decoding plainly (another --tree drafts)" in capsys.readouterr().err
    lookup = choose("falcon:copy=3").build(context)
    assert isinstance(lookup, PromptLookup)
    assert lookup.options == PldOptions(max_ngram=3, min_ngram=3, length=5)
    assert "plainly" not in capsys.readouterr().err
    save_tree(tmp_path / "drafter" / "tree.json", replace(plain, copying=CopyPolicy(2, 5, TreeShape.chain(1))))
    assert choose("falcon:copy=auto").build(context).tree.shape == TreeShape.chain(1)
    assert "plainly" not in capsys.readouterr().err


def test_a_drafter_named_with_the_method_wins(context, tmp_path):
    with pytest.raises(FalconError, match=r"no drafter at .*nowhere"):
        choose(f"falcon:drafter={tmp_path / 'nowhere'}").build(context)
    assert choose(f"falcon:drafter={context.drafter}").build(DraftingContext(context.target))
    with pytest.raises(UsageError, match="falcon needs --drafter for tiny"):
        choose("falcon").build(DraftingContext(context.target))


def test_a_draft_model_must_mean_the_same_by_an_id():
    for other in (loaded("padded", "abc", rows=8), loaded("more", "abc", added=("[PAD]",))):
        check_same_vocabulary(CONTEXT.target, other)
        check_same_vocabulary(other, CONTEXT.target)
    for other in (loaded("longer", "abcd"), loaded("turned", "acb")):
        with pytest.raises(FalconError, match=f"draft model {other.name} has another vocabulary than big"):
            check_same_vocabulary(CONTEXT.target, other)
    with pytest.raises(FalconError, match="draft model cut scores 2 tokens, the vocabulary has 3"):
        choose("sps").build(DraftingContext(CONTEXT.target, loaded("cut", "abc", rows=2)))


def test_added_tokens_that_differ_are_never_drafted():
    target = loaded("big", "abc", added=("[PAD]", "<s>", "<x>"))
    small = loaded("small", "abc", added=("[PAD]", "<t>"))
    assert choose("sps").build(DraftingContext(target, small))._foreign == {4, 5}
    assert choose("sps").build(DraftingContext(small, target))._foreign == {4}
    cut = loaded("cut", "abc", rows=3, added=("[PAD]", "<s>", "<x>"))
    assert choose("sps").build(DraftingContext(target, cut))._foreign == {3, 4, 5}
