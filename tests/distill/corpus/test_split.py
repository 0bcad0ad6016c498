"""The split into texts to train on and held-out texts."""

from collections import Counter

import pytest

from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.corpus.split import split
from falcon_cli.distill.corpus.tally import Tally
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import CorpusRecipe


def texts(*names):
    return [Sample(name, (1, 2), (False, True)) for name in names]


def test_the_split_depends_on_names_alone():
    recipe = CorpusRecipe(held_out=2)
    names = [f"d{n}" for n in range(9)]
    first = split(texts(*names), recipe, Tally())
    second = split(texts(*reversed(names)), recipe, Tally())
    assert {sample.id for sample in first.held_out} == {sample.id for sample in second.held_out}
    assert (len(first.train), len(first.held_out)) == (7, 2)


def test_turns_of_one_dialogue_are_never_separated():
    corpus = split(texts(*[f"d{n}/{turn}" for n in range(6) for turn in range(3)]), CorpusRecipe(held_out=2), Tally())
    held_out = {sample.id.split("/")[0] for sample in corpus.held_out}
    assert len(held_out) == 2
    assert not held_out & {sample.id.split("/")[0] for sample in corpus.train}


def test_a_corpus_of_which_nothing_is_left_says_why():
    with pytest.raises(FalconError, match=r"0 usable dialogues.*held_out takes 64.*12 not in ASCII"):
        split([], CorpusRecipe(), Tally(12, 0, Counter({"not in ASCII": 12})))


def test_the_summary_counts_texts_and_reasons():
    tally = Tally(1203, 3, Counter({"doubled": 1200}), Counter({"at max_tokens": 2}))
    assert split(texts("a", "b", "c"), CorpusRecipe(held_out=1), tally).lines() == [
        "corpus: 1,203 dialogues read: 3 used, 1,200 left out (1,200 doubled)",
        "        2 of those used are cut (2 at max_tokens)",
        "        2 texts with 2 answer tokens, 1 held out",
    ]
