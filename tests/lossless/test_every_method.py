"""Whatever the drafter does, the ids are those of transformers' own greedy `generate`.

The models are float64, so that no two logits are ever within rounding of each other and equality can be demanded.
"""

import random
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from falcon_cli.core import Draft
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.methods.table import METHODS
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

CPU = torch.device("cpu")
VOCAB, CONTEXT = 48, 256
VOCABULARY = {f"word{token}": token for token in range(VOCAB)}
TOKENIZER = SimpleNamespace(get_vocab=lambda: VOCABULARY, get_added_vocab=dict)
CHOICES = [
    "ar",
    "pld",
    "pld:max_ngram=2,length=3",
    "lookahead",
    "lookahead:window=1,ngram=2,guesses=1,prompt_pool=false",
    "lookahead:window=7,ngram=5,guesses=7",
    "lookahead:window=3,ngram=4,guesses=2,prompt_pool=false",
    "sps",
    "sps:gamma=1,min_probability=0",
    "sps:gamma=7,min_probability=0",
    "falcon",
    "falcon:copy=2",
    "falcon:depth=3,nodes=5",
    "falcon:tree=chain",
    "eagle",
    "eagle:tree=dynamic",
    "medusa",
    "medusa:tree=chain",
    "adaptive",
]
TEXTS = [(0, 1, 12), (1, 9, 1), (2, 40, 16)]
"""Seed of model and prompt, prompt tokens, new tokens."""


def prompt_of(length, seed):
    """A prompt with repetitions, so that prompt lookup has something to find."""
    dice = random.Random(seed)
    phrase = [dice.randrange(VOCAB) for _ in range(1 + length // 3)]
    return tuple(token if dice.random() < 0.9 else dice.randrange(VOCAB) for token in (phrase * 4)[:length])


def disturbed(model, amount, seed=0):
    """Weights near those of the target: a draft model that is right now and then."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.data += amount * noise
    return model


def loaded(model):
    return LoadedTarget("tiny", TargetModel(model, chunk=16), TOKENIZER, frozenset(), "fp32")


@pytest.fixture(scope="module")
def truth(tiny_model):
    """What transformers' own `generate` says after a prompt; no part of falcon is in it."""

    @cache
    def say(family, seed, prompt, new, stop_ids=()):
        ids = tiny_model(family, seed).generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=list(stop_ids) or None,
        )
        return ids[0, len(prompt) :].tolist()

    return say


@pytest.fixture(scope="module")
def kit(tiny_model, save_drafters, tmp_path_factory):
    """A target with a draft model near it or one that knows nothing of it, and with random drafters of all methods."""

    @cache
    def build(family, seed, near=True):
        draft = disturbed(tiny_model(family, seed), 0.05) if near else tiny_model("llama-mha", seed + 100)
        target, root = loaded(tiny_model(family, seed)), tmp_path_factory.mktemp("drafters")
        save_drafters(root, target, seed)
        return DraftingContext(target, loaded(draft), str(root))

    return build


def built(kit, choice):
    """The drafter of a choice, its folder the one of its method."""
    method = choice.partition(":")[0]
    return choose(choice).build(replace(kit, drafter=f"{kit.drafter}/{method if method in TRAINED else 'falcon'}"))


def run(kit, choice, prompt, new, stop_ids=()):
    return complete(kit.target.model, built(kit, choice), list(prompt), Stop(stop_ids, new))


def test_every_method_of_the_table_is_tried_here():
    assert {choice.partition(":")[0] for choice in CHOICES} == set(METHODS)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("seed", "length", "new"), TEXTS)
def test_ids_equal_transformers_greedy_generate(truth, kit, family, choice, seed, length, new):
    prompt = prompt_of(length, seed)
    answer = run(kit(family, seed), choice, prompt, new)
    assert answer.ids == truth(family, seed, prompt, new)
    assert answer.finish == "length"


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", ["llama-gqa", "mistral-window"])
def test_several_texts_through_one_drafter_do_not_leak_into_each_other(truth, kit, family, choice):
    shared = kit(family, 3)
    drafter = built(shared, choice)
    for length in (12, 1, 33, 12):
        prompt = prompt_of(length, length)
        assert complete(shared.target.model, drafter, list(prompt), Stop((), 10)).ids == truth(family, 3, prompt, 10)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("place", [0, 1, 7, 12])
def test_answers_end_at_the_stop_token_as_generates_do(truth, kit, choice, place):
    prompt = prompt_of(20, 5)
    free = truth("qwen3", 5, prompt, 20)
    stop_ids = (free[place], VOCAB - 1)
    expected = truth("qwen3", 5, prompt, 20, stop_ids)
    answer = run(kit("qwen3", 5), choice, prompt, 20, stop_ids)
    assert answer.ids == expected
    assert answer.ids[-1] in stop_ids
    assert answer.finish == "stop"


@pytest.mark.parametrize("choice", CHOICES)
def test_an_answer_may_fill_the_context_to_its_last_token(truth, kit, choice):
    prompt = prompt_of(CONTEXT - 12, 6)
    answer = run(kit("llama-gqa", 6), choice, prompt, 12)
    assert answer.ids == truth("llama-gqa", 6, prompt, 12)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.startswith("sps")])
def test_a_draft_model_that_knows_nothing_of_the_target_does_no_harm(truth, kit, family, choice):
    prompt = prompt_of(14, 7)
    assert run(kit(family, 7, near=False), choice, prompt, 10).ids == truth(family, 7, prompt, 10)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "ar"])
def test_every_method_does_draft_here(kit, choice):
    """Else the tests above would prove nothing: some drafts are accepted, some are not."""
    cycles = []
    for seed in range(3):
        cycles += run(kit("llama-tied", seed), choice, prompt_of(30, seed), 40).cycles
    assert any(cycle.accepted > 0 for cycle in cycles)
    assert any(cycle.accepted < cycle.nodes - 1 for cycle in cycles)


class Hinted:
    """Drafters that are told the true answer beforehand."""

    def __init__(self, answer, seed=0):
        self.answer, self.generator = answer, torch.Generator().manual_seed(seed)
        self.emitted, self.least, self.accepted = 0, [], []

    def start(self, prompt_L, scores):
        self.emitted = 0

    def observe(self, verdict, scores):
        self.emitted += len(verdict.accepted) + 1
        self.accepted.append(len(verdict.accepted))

    def roll(self, stop):
        return int(torch.randint(stop, (), generator=self.generator))


class Oracle(Hinted):
    """A chain of true tokens."""

    def propose(self, token, room):
        assert token == self.answer[self.emitted]
        true = self.answer[self.emitted + 1 :][: min(room, 5)]
        return Draft.chain([token, *true], CPU)


class RandomTree(Hinted):
    """A random tree of random tokens; `hide` puts the true continuation along one random path of it."""

    def __init__(self, answer, seed, random_parents, hide):
        super().__init__(answer, seed)
        self.random_parents, self.hide = random_parents, hide

    def propose(self, token, room):
        parents = self.random_parents(1 + self.roll(25 if room else 1), self.generator, max_depth=room)
        draft = Draft.tree([token, *(self.roll(VOCAB) for _ in parents[1:])], parents, CPU)
        hidden = draft.ancestors_TT[self.roll(len(parents)) if self.hide else 0]
        depth = int(hidden.sum()) - 1
        draft.tokens_T[hidden] = torch.tensor(self.answer[self.emitted :][: depth + 1])
        self.least.append(depth)
        return draft


@pytest.mark.parametrize("seed", range(2))
def test_an_oracles_drafts_are_accepted_whole(truth, kit, family, seed):
    prompt = prompt_of(11, seed)
    answer = truth(family, seed, prompt, 1 + 4 * 6)
    drafter = Oracle(answer)
    got = complete(kit(family, seed).target.model, drafter, list(prompt), Stop((), len(answer)))
    assert got.ids == answer
    assert drafter.accepted == [5] * 4
    assert [cycle.emitted for cycle in got.cycles] == [6] * 4


@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_random_trees_change_nothing_and_a_hidden_truth_is_found(truth, kit, random_parents, family, seed, hide):
    prompt = prompt_of(13, seed)
    answer = truth(family, seed, prompt, 25)
    drafter = RandomTree(answer, seed, random_parents, hide)
    got = complete(kit(family, seed).target.model, drafter, list(prompt), Stop((), len(answer)))
    assert got.ids == answer
    assert all(accepted >= least for accepted, least in zip(drafter.accepted, drafter.least, strict=True))
    assert sum(drafter.least) > 0 or not hide
