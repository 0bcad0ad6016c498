"""The choice of drafts, on texts and machines that are made up: a clock that runs as fast as the test says."""

import random

import pytest
import torch

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.drafters.adaptive.drafter import LONGEST_COPY, Adaptive, CycleCosts
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup

CPU = torch.device("cpu")
NOTHING = Scores.of(torch.zeros(1, 2), torch.zeros(1, 2))
SIZES = (1, 2, 4, 8, 16)


class Chains:
    """A tree drafter whose trees are chains, right at each node with the same probability."""

    def __init__(self, text, odds, seed=0):
        self.text, self.odds, self.dice, self.kept, self.drafted = text, odds, random.Random(seed), 16, 0
        self.place = 0

    def expected(self, nodes):
        return sum(0.5**depth for depth in range(1, nodes + 1))

    def keep(self, nodes):
        self.kept = nodes

    def propose(self, token, room):
        self.drafted += 1
        truth = self.text[self.place : self.place + min(self.kept, room)]
        return Draft.chain([token, *(one if self.dice.random() < self.odds else -1 for one in truth)], CPU)

    def accepted_of(self, path, sizes):
        return {size: min(size, len(path) - 1) for size in sizes}

    def start(self, prompt_L, scores):
        pass

    note_root = observe = lambda *_: None


class Machine:
    """A loop over a known text, with a clock."""

    def __init__(self, monkeypatch, node_price, draft_ms=1.0, load=1.0):
        self.now, self.node_price, self.draft_ms, self.load = 0.0, node_price, draft_ms, load
        monkeypatch.setattr("falcon_cli.drafters.adaptive.drafter.perf_counter", lambda: self.now)

    def verify_ms(self, nodes, context=0):
        return 10.0 + self.node_price * (nodes - 1)

    def costs(self, sizes=()):
        return CycleCosts(self.verify_ms, dict.fromkeys(sizes, self.draft_ms))

    def run(self, drafter, prompt, text, tree=None):
        """Milliseconds a token."""
        drafter.start(torch.tensor(prompt), NOTHING)
        place, began = 1, self.now
        while place < len(text):
            if tree is not None:
                tree.place = place
            before = 0 if tree is None else tree.drafted
            draft = drafter.propose(text[place - 1], len(text) - place - 1)
            tokens = draft.tokens_T.tolist()
            right = 0
            while right + 1 < len(tokens) and place + right < len(text) and tokens[right + 1] == text[place + right]:
                right += 1
            drafted = tree is not None and tree.drafted > before
            self.now += self.load * (self.verify_ms(len(tokens)) + self.draft_ms * drafted) / 1e3
            accepted = text[place : place + right]
            bonus = text[place + right] if place + right < len(text) else 0
            verdict = Verdict(tuple(range(right + 1)), tuple(accepted), bonus, (0,) * len(tokens))
            drafter.observe(verdict, NOTHING)
            place += right + 1
        return 1e3 * (self.now - began) / (len(text) - 1)


def adaptive(machine, tree=None):
    lookup = PromptLookup(CPU, PldOptions(max_ngram=4, min_ngram=1, length=LONGEST_COPY))
    return Adaptive(lookup, machine.costs(SIZES if tree is not None else ()), tree)


def novel(length, seed=0):
    """A text in which what followed a token before is a poor guess."""
    dice = random.Random(seed)
    return [dice.randrange(40) for _ in range(length)]


def echo(length):
    """A text that says everything again and again."""
    phrase = novel(30, 5)
    return (phrase * (length // 30 + 1))[:length]


@pytest.mark.parametrize("node_price", [0.1, 2.0, 8.0])
def test_where_copies_are_wrong_it_decodes_as_fast_as_without_drafts(monkeypatch, node_price):
    machine = Machine(monkeypatch, node_price)
    drafter = adaptive(machine)
    assert machine.run(drafter, novel(60, 1), novel(1500)) <= 1.02 * machine.verify_ms(1)


@pytest.mark.parametrize(("node_price", "at_most"), [(0.1, 1.5), (2.0, 3.5)])
def test_where_the_text_repeats_itself_it_copies(monkeypatch, node_price, at_most):
    machine = Machine(monkeypatch, node_price)
    drafter = adaptive(machine)
    assert machine.run(drafter, echo(60), echo(600)) <= at_most
    assert drafter.chosen["copy"] > 0.9 * sum(drafter.chosen.values())


def test_a_node_that_costs_as_much_as_a_cycle_is_never_copied(monkeypatch):
    machine = Machine(monkeypatch, node_price=11.0)
    drafter = adaptive(machine)
    machine.run(drafter, echo(60), echo(600))
    assert drafter.chosen["copy"] == 0


@pytest.mark.parametrize(("node_price", "odds", "at_most"), [(0.2, 0.9, 3.2), (1.0, 0.8, 5.2), (0.2, 0.6, 6.0)])
def test_a_good_tree_is_drafted(monkeypatch, node_price, odds, at_most):
    machine, text = Machine(monkeypatch, node_price), novel(1500)
    tree = Chains(text, odds)
    drafter = adaptive(machine, tree)
    assert machine.run(drafter, novel(60, 1), text, tree) <= at_most
    assert drafter.chosen["tree"] > 0.9 * sum(drafter.chosen.values())


@pytest.mark.parametrize("draft_ms", [3.0, 12.0])
@pytest.mark.parametrize("node_price", [0.2, 8.0])
def test_a_tree_that_is_never_right_is_tried_ever_more_seldom(monkeypatch, node_price, draft_ms):
    machine, text = Machine(monkeypatch, node_price, draft_ms), novel(2000)
    tree = Chains(text, 0.0)
    drafter = adaptive(machine, tree)
    machine.run(drafter, novel(60, 1), text, tree)
    assert machine.run(drafter, novel(60, 1), text, tree) <= 1.03 * machine.verify_ms(1)


def test_short_texts_do_not_try_useless_trees_again_and_again(monkeypatch):
    machine, text = Machine(monkeypatch, 8.0, draft_ms=5.0), novel(2000)
    tree = Chains(text, 0.0)
    drafter = adaptive(machine, tree)
    machine.run(drafter, novel(60, 1), text, tree)
    spent = [machine.run(drafter, novel(60, seed), novel(65, seed), tree) for seed in range(20)]
    assert sum(spent) / 20 <= 1.05 * machine.verify_ms(1)


def test_what_was_no_use_is_found_again_when_it_is(monkeypatch):
    machine, text = Machine(monkeypatch, 0.5), novel(3000)
    tree = Chains(text, 0.0)
    drafter = adaptive(machine, tree)
    machine.run(drafter, novel(60, 1), text, tree)
    tree.odds = 0.9
    machine.run(drafter, novel(60, 1), text, tree)
    assert machine.run(drafter, novel(60, 1), text, tree) <= 4.5


def test_a_busy_machine_is_slower_and_no_less_well_used(monkeypatch):
    """All cycles take three times as long as the table says."""
    machine, text = Machine(monkeypatch, 0.2, load=3.0), novel(1500)
    tree = Chains(text, 0.8)
    drafter = adaptive(machine, tree)
    assert machine.run(drafter, novel(60, 1), text, tree) <= 3 * 4.2


def test_a_single_stray_cycle_changes_little(monkeypatch):
    machine, text = Machine(monkeypatch, 8.0), novel(400)
    drafter = adaptive(machine)
    machine.run(drafter, novel(60, 1), text)
    machine.load = 500.0
    machine.run(drafter, novel(60, 1), text[:2])
    machine.load = 1.0
    assert machine.run(drafter, novel(60, 1), text) <= 1.04 * machine.verify_ms(1)


def test_copies_are_learned_from_without_being_drafted(monkeypatch):
    """A text that begins to repeat itself after copies have long been no use."""
    machine = Machine(monkeypatch, 1.0)
    drafter = adaptive(machine)
    machine.run(drafter, novel(60, 1), novel(1500))
    machine.run(drafter, echo(60), echo(900))
    assert machine.run(drafter, echo(60), echo(900)) <= 3.0


def test_no_draft_is_deeper_than_there_is_room(monkeypatch):
    machine = Machine(monkeypatch, 0.1)
    drafter = adaptive(machine)
    drafter.start(torch.tensor(echo(90)), NOTHING)
    assert len(drafter.propose(echo(91)[-1], 3)) <= 4
    assert len(drafter.propose(echo(92)[-1], 0)) == 1


def test_it_tells_what_it_chose(monkeypatch):
    machine = Machine(monkeypatch, 0.1)
    drafter = adaptive(machine)
    machine.run(drafter, echo(60), echo(100))
    assert drafter.chosen.keys() == {"none", "copy", "tree"}
    assert drafter.chosen["tree"] == 0
    drafter.start(torch.tensor([1]), NOTHING)
    assert drafter.chosen == {"none": 0, "copy": 0, "tree": 0}
