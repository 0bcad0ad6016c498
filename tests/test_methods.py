from types import SimpleNamespace

import pytest
import torch

from falcon_cli.baselines.autoregressive import Autoregressive
from falcon_cli.baselines.lookahead import Lookahead, LookaheadOptions
from falcon_cli.baselines.pld import PldOptions, PromptLookup
from falcon_cli.baselines.sps import SpeculativeSampling, SpsOptions
from falcon_cli.bench.summary import BASELINE
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.methods import METHODS, Kit, check_same_vocabulary, choose


def loaded(name, words, rows=None):
    """As much of a loaded model as a drafter's builder looks at."""
    model = SimpleNamespace(device=torch.device("cpu"), vocab_size=rows or len(words))
    tokenizer = SimpleNamespace(get_vocab=lambda: {word: number for number, word in enumerate(words)})
    return SimpleNamespace(name=name, model=model, tokenizer=tokenizer)


KIT = Kit(loaded("big", "abc"), loaded("small", "abc"))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("pld", PldOptions()),
        ("pld:", PldOptions()),
        ("pld:max_ngram=4,length=7", PldOptions(max_ngram=4, length=7)),
        ("lookahead:window=7,ngram=5,guesses=7,prompt_pool=False", LookaheadOptions(7, 5, 7, False)),
        ("sps:gamma=3,min_probability=0.25", SpsOptions(3, 0.25)),
    ],
)
def test_a_method_is_read_with_its_options(text, options):
    choice = choose(text)
    assert (choice.name, choice.options) == (text, options)


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
    ],
)
def test_what_cannot_be_read_is_wrong_usage(text, message):
    with pytest.raises(UsageError, match=message):
        choose(text)


def test_only_sps_asks_for_a_draft_model():
    for name in METHODS:
        choose(name).check("small")
    for name in ("ar", "pld", "lookahead"):
        choose(name).check(None)
    with pytest.raises(UsageError, match="sps:gamma=2 needs --draft-model"):
        choose("sps:gamma=2").check(None)


def test_a_draft_model_must_mean_the_same_by_an_id():
    check_same_vocabulary(KIT.target, loaded("padded", "abc", rows=8))
    for other in (loaded("longer", "abcd"), loaded("turned", "acb")):
        with pytest.raises(FalconError, match=f"draft model {other.name} has another vocabulary than big"):
            check_same_vocabulary(KIT.target, other)
    with pytest.raises(FalconError, match="draft model cut scores 2 tokens, the vocabulary has 3"):
        choose("sps").build(Kit(KIT.target, loaded("cut", "abc", rows=2)))
