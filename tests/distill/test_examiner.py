"""A look at held-out text: accuracy, the tree that serves best, and what it accepts in the engine."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.accuracy import accuracy, best_paths, expected_accepted, ranks_AP
from falcon_cli.distill.examiner import Examiner
from falcon_cli.distill.sample import Sample
from falcon_cli.drafter.propose import Falcon


@pytest.fixture
def room(classroom):
    """A drafter that has learned a little."""
    room = classroom(k=2, steps=20, draft_vocab_size=30)
    room.trained(20)
    return room


def examiner(room, prompts):
    return Examiner(room.target, room.pupil, room.lessons.lessons, room.samples, prompts)


def test_a_look_tells_what_the_ranks_tell(room):
    look = examiner(room, prompts=0).look()
    ranks = ranks_AP(room.pupil.grown(), room.pupil.frozen, room.lessons.lessons, 4)
    assert set(look.line) == {"top1", "top5", "drafts", "tau_foreseen", "tau"}
    assert (look.line["top1"], look.line["top5"]) == (accuracy(ranks, 2).top1, accuracy(ranks, 2).top5)
    assert [len(slots) for slots in look.line["top1"]] == [2] * 4
    assert look.line["drafts"] == len(ranks) > 0
    assert set(look.tree.paths) == set(best_paths(ranks, 32, width=30))  # no rank reaches the 30 that may be drafted
    assert len(look.tree) <= 32
    assert look.line["tau_foreseen"] == pytest.approx(expected_accepted(ranks, look.tree.paths), abs=1e-4)
    assert look.line["tau"] is None


def test_tau_is_the_engine_s_own_with_that_tree(room):
    look = examiner(room, prompts=2).look()
    drafter = Falcon(room.pupil.grown(), room.target.model, look.tree, room.pupil.vocabulary_W)
    cycles = []
    for sample in room.samples[:2]:
        prompt = list(sample.tokens[: sample.answer.index(True)])
        cycles += complete(room.target.model, drafter, prompt, Stop(room.target.stop_ids, 64)).cycles
    assert cycles
    assert look.line["tau"] == round(sum(cycle.accepted for cycle in cycles) / len(cycles), 4)


def test_the_deepest_level_is_a_whole_number_of_passes(classroom):
    room = classroom(k=3)
    assert [len(slots) for slots in examiner(room, 0).look().line["top1"]] == [3, 3, 3]


def test_a_prompt_near_the_end_of_the_context_is_decoded_as_far_as_there_is_room(room):
    limit = room.target.model.context_limit
    long = Sample("long", (5,) * (limit - 2) + (7, 7), (False,) * (limit - 2) + (True, True))
    room.samples = [long]
    examiner(room, prompts=1).look()


def test_a_look_leaves_the_learner_as_it_was(room, classroom):
    unseen = classroom(k=2, steps=20, draft_vocab_size=30)
    trainer, other = room.trainer(), unseen.trainer()
    unseen.pupil.network.load_state_dict(room.pupil.network.state_dict())
    examiner(room, prompts=1).look()
    assert trainer.step(0).loss == other.step(0).loss
    assert room.pupil.network.training
    assert room.pupil.network.layer.self_attn.config._attn_implementation == "sdpa"


def test_held_out_texts_too_short_for_a_draft_still_leave_a_tree(room):
    room.samples = room.samples[:1]
    room.lessons.lessons = [replace(room.lessons.lessons[0], answer_L=torch.zeros(len(room.samples[0])).bool())]
    look = examiner(room, prompts=1).look()
    assert (look.line["drafts"], look.line["top1"][0], look.line["tau_foreseen"]) == (0, [0.0, 0.0], 0.0)
    assert look.tree.paths == ((0,), (0, 0))
