"""A look at held-out text: accuracy, the tree that serves best, and what it accepts in the engine."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.objective.accuracy import accuracy, best_paths, expected_accepted, ranks_AP
from falcon_cli.distill.training.evaluator import HeldOutEvaluator
from falcon_cli.drafters.falcon.propose import Falcon


@pytest.fixture
def room(training_setup):
    """A drafter that has learned a little."""
    room = training_setup(k=2, steps=20, draft_vocab_size=30)
    room.trained(20)
    return room


def evaluator(room, prompts):
    return HeldOutEvaluator(room.target, room.student, room.features.texts, room.samples, prompts)


def test_a_look_tells_what_the_ranks_tell(room):
    evaluate = evaluator(room, prompts=0).evaluate()
    ranks = ranks_AP(room.student.snapshot(), room.student.weights, room.features.texts, 4)
    assert set(evaluate.line) == {"top1", "top5", "drafts", "tau_foreseen", "tau"}
    assert (evaluate.line["top1"], evaluate.line["top5"]) == (accuracy(ranks, 2).top1, accuracy(ranks, 2).top5)
    assert [len(slots) for slots in evaluate.line["top1"]] == [2] * 4
    assert evaluate.line["drafts"] == len(ranks) > 0
    assert set(evaluate.tree.paths) == set(
        best_paths(ranks, 32, width=30)
    )  # no rank reaches the 30 that may be drafted
    assert len(evaluate.tree) <= 32
    assert evaluate.line["tau_foreseen"] == pytest.approx(expected_accepted(ranks, evaluate.tree.paths), abs=1e-4)
    assert evaluate.line["tau"] is None


def test_tau_is_the_engine_s_own_with_that_tree(room):
    evaluate = evaluator(room, prompts=2).evaluate()
    drafter = Falcon(room.student.snapshot(), room.target.model, evaluate.tree, room.student.vocabulary_W)
    cycles = []
    for sample in room.samples[:2]:
        prompt = list(sample.tokens[: sample.answer.index(True)])
        cycles += complete(room.target.model, drafter, prompt, Stop(room.target.stop_ids, 64)).cycles
    assert cycles
    assert evaluate.line["tau"] == round(sum(cycle.accepted for cycle in cycles) / len(cycles), 4)


def test_the_deepest_level_is_a_whole_number_of_passes(training_setup):
    room = training_setup(k=3)
    assert [len(slots) for slots in evaluator(room, 0).evaluate().line["top1"]] == [3, 3, 3]


def test_a_prompt_near_the_end_of_the_context_is_decoded_as_far_as_there_is_room(room):
    limit = room.target.model.context_limit
    long = Sample("long", (5,) * (limit - 2) + (7, 7), (False,) * (limit - 2) + (True, True))
    room.samples = [long]
    evaluator(room, prompts=1).evaluate()


def test_a_look_leaves_the_learner_as_it_was(room, training_setup):
    unseen = training_setup(k=2, steps=20, draft_vocab_size=30)
    trainer, other = room.trainer(), unseen.trainer()
    unseen.student.network.load_state_dict(room.student.network.state_dict())
    evaluator(room, prompts=1).evaluate()
    assert trainer.step(0).loss == other.step(0).loss
    assert room.student.network.training
    assert room.student.network.layer.self_attn.config._attn_implementation == "sdpa"


def test_held_out_texts_too_short_for_a_draft_still_leave_a_tree(room):
    room.samples = room.samples[:1]
    room.features.texts = [replace(room.features.texts[0], answer_L=torch.zeros(len(room.samples[0])).bool())]
    evaluate = evaluator(room, prompts=1).evaluate()
    assert (evaluate.line["drafts"], evaluate.line["top1"][0], evaluate.line["tau_foreseen"]) == (0, [0.0, 0.0], 0.0)
    assert evaluate.tree.paths == ((0,), (0, 0))
