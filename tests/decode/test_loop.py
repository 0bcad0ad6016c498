import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.core import Draft
from falcon_cli.decode.loop import Step, complete, extend, speculate
from falcon_cli.decode.stats import Completion
from falcon_cli.decode.stop import Stop

CPU = torch.device("cpu")
VOCAB = 48


def mixed(text):
    """A next token that hangs on the whole text."""
    return (sum((place + 3) * token for place, token in enumerate(text)) * 7 + len(text)) % VOCAB


class Guesser:
    """Drafts chains as deep as it may, with a share of wrong tokens, and keeps a diary."""

    def __init__(self, target, wrong=0.0, seed=0):
        self.target, self.wrong, self.dice = target, wrong, random.Random(seed)
        self.rooms, self.verdicts, self.text = [], [], []

    def start(self, prompt_L, scores):
        self.text = prompt_L.tolist()

    def propose(self, token, room):
        self.rooms.append(room)
        self.text.append(token)
        truth = self.target.continuation(self.text, room)
        guesses = [(t + 1) % VOCAB if self.dice.random() < self.wrong else t for t in truth]
        return Draft.chain([token, *guesses], CPU)

    def observe(self, verdict, scores):
        self.verdicts.append(verdict)
        self.text += verdict.accepted


@given(
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
    limit=st.integers(1, 20),
    wrong=st.floats(0, 1),
    stop_ids=st.sets(st.integers(0, VOCAB - 1), max_size=3),
    seed=st.integers(0, 99),
)
def test_any_drafter_yields_the_targets_own_text(toy_target, prompt, limit, wrong, stop_ids, seed):
    target = toy_target(mixed)
    drafter = Guesser(target, wrong, seed)
    expected = Stop(stop_ids, limit).take(target.continuation(prompt, limit))
    answer = complete(target, drafter, prompt, Stop(stop_ids, limit))
    assert answer.ids == expected
    assert answer.finish == ("stop" if expected[-1] in stop_ids else "length")
    assert answer.decode_tokens == len(answer.ids) - 1
    assert answer.prompt_tokens == len(prompt)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_steps_add_up_to_the_completion_and_the_first_is_the_prefills(toy_target, wrong):
    prompt = [3, 1, 4]
    target = toy_target(mixed)
    steps = list(speculate(target, Guesser(target, wrong), prompt, Stop((), 17)))
    assert steps[0].tokens == (mixed(prompt),)
    assert steps[0].cycle is None
    assert all(step.cycle is not None and step.cycle.emitted == len(step.tokens) for step in steps[1:])
    assert [token for step in steps for token in step.tokens] == target.continuation(prompt, 17)
    answer = complete(target, Guesser(target, wrong), prompt, Stop((), 17))
    assert answer.ids == target.continuation(prompt, 17)
    assert [cycle.emitted for cycle in answer.cycles] == [len(step.tokens) for step in steps[1:]]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_the_room_is_what_may_be_emitted_less_the_bonus_and_never_exceeded(toy_target, limit):
    target = toy_target(mixed)
    perfect = Guesser(target)
    answer = complete(target, perfect, [5], Stop((), limit))
    assert len(answer.ids) == limit
    assert perfect.rooms == ([limit - 2] if limit > 1 else [])  # one cycle fills the rest: room drafted + 1 bonus
    hopeless = Guesser(target, wrong=1.0)
    answer = complete(target, hopeless, [5], Stop((), limit))
    assert len(answer.ids) == limit
    assert hopeless.rooms == list(range(limit - 2, -1, -1))


def test_drafts_never_reach_past_the_last_token_of_the_answer(toy_target):
    target = toy_target(mixed)
    complete(target, Guesser(target, wrong=0.4), [5, 6], Stop((), 12))
    assert len(target.read) <= 2 + 12 - 1  # the last token is never read


def test_a_cycle_is_cut_at_a_stop_token_inside_the_accepted_path(toy_target):
    target = toy_target(lambda text: text[-1] + 1)
    drafter = Guesser(target)
    answer = complete(target, drafter, [10], Stop({14}, 30))
    assert answer.ids == [11, 12, 13, 14]
    assert answer.finish == "stop"
    assert [cycle.emitted for cycle in answer.cycles] == [3]
    assert len(drafter.verdicts[0].accepted) > 3  # so there was something to cut


def test_an_answer_that_ends_with_the_prefills_token_has_no_cycle(toy_target):
    target = toy_target(lambda text: 9)
    for stop, finish in [(Stop({9}, 5), "stop"), (Stop((), 1), "length")]:
        answer = complete(target, Guesser(target), [1], stop)
        assert (answer.ids, answer.cycles, answer.finish) == ([9], [], finish)


def test_cycles_count_the_accepted_drafted_tokens_and_all_scored_nodes(toy_target):
    target = toy_target(mixed)
    drafter = Guesser(target, wrong=0.3, seed=4)
    answer = complete(target, drafter, [2, 7], Stop((), 40))
    assert [cycle.accepted for cycle in answer.cycles] == [len(verdict.accepted) for verdict in drafter.verdicts]
    assert [cycle.nodes for cycle in answer.cycles] == [room + 1 for room in drafter.rooms]
    accepted = sum(len(verdict.accepted) for verdict in drafter.verdicts)
    tau = accepted / len(answer.cycles)
    assert tau > 0
    assert accepted / answer.decode_tokens == pytest.approx(1 - 1 / (tau + 1), abs=1e-12)


def test_the_parts_of_a_cycle_fit_into_the_whole(toy_target):
    target = toy_target(mixed)
    answer = complete(target, Guesser(target, wrong=0.5), [2, 7], Stop((), 20))
    for cycle in answer.cycles:
        assert 0 <= cycle.draft_seconds + cycle.verify_seconds <= cycle.seconds


def test_extend_enters_a_step_into_the_record():
    answer = Completion(prompt_tokens=1)
    extend(answer, Step((4, 5), prefill_seconds=0.5))
    assert (answer.ids, answer.prefill_seconds, answer.cycles) == ([4, 5], 0.5, [])
