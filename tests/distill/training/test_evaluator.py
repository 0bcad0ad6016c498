"""Evaluation on held-out text: accuracy, the best tree, and what decoding with it accepts."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.corpus.sample import Sample
from falcon_cli.distill.objective.accuracy import accuracy, best_paths, draft_ranks, expected_accepted
from falcon_cli.distill.training.evaluator import HeldOutEvaluator
from falcon_cli.drafters.falcon.propose import Falcon


@pytest.fixture
def setup(training_setup):
    """A drafter after a little training."""
    setup = training_setup(k=2, steps=20, draft_vocab_size=30)
    setup.trained(20)
    return setup


def evaluator(setup, prompts):
    return HeldOutEvaluator(setup.target, setup.student, setup.features.texts, setup.samples, prompts)


def test_an_evaluation_reports_what_the_ranks_say(setup):
    result = evaluator(setup, prompts=0).evaluate()
    ranks = draft_ranks(setup.student.snapshot(), setup.student.weights, setup.features.texts, 4)
    assert set(result.line) == {"top1", "top5", "drafts", "tau_foreseen", "tau"}
    assert (result.line["top1"], result.line["top5"]) == (accuracy(ranks, 2).top1, accuracy(ranks, 2).top5)
    assert [len(slots) for slots in result.line["top1"]] == [2] * 4
    assert result.line["drafts"] == len(ranks) > 0
    assert set(result.tree.paths) == set(best_paths(ranks, 32, width=30))  # no rank reaches the 30 that may be drafted
    assert len(result.tree) <= 32
    assert result.line["tau_foreseen"] == pytest.approx(expected_accepted(ranks, result.tree.paths), abs=1e-4)
    assert result.line["tau"] is None


def test_tau_is_that_of_decoding_with_that_tree(setup):
    result = evaluator(setup, prompts=2).evaluate()
    drafter = Falcon(setup.student.snapshot(), setup.target.model, result.tree, setup.student.vocabulary_W)
    cycles = []
    for sample in setup.samples[:2]:
        prompt = list(sample.tokens[: sample.answer.index(True)])
        cycles += complete(setup.target.model, drafter, prompt, Stop(setup.target.stop_ids, 64)).cycles
    assert cycles
    assert result.line["tau"] == round(sum(cycle.accepted for cycle in cycles) / len(cycles), 4)


def test_the_deepest_level_is_a_whole_number_of_passes(training_setup):
    setup = training_setup(k=3)
    assert [len(slots) for slots in evaluator(setup, 0).evaluate().line["top1"]] == [3, 3, 3]


def test_a_prompt_near_the_end_of_the_context_is_decoded_as_far_as_the_context_allows(setup):
    limit = setup.target.model.context_limit
    long = Sample("long", (5,) * (limit - 2) + (7, 7), (False,) * (limit - 2) + (True, True))
    setup.samples = [long]
    evaluator(setup, prompts=1).evaluate()


def test_an_evaluation_leaves_the_student_as_it_was(setup, training_setup):
    unseen = training_setup(k=2, steps=20, draft_vocab_size=30)
    trainer, other = setup.trainer(), unseen.trainer()
    unseen.student.network.load_state_dict(setup.student.network.state_dict())
    evaluator(setup, prompts=1).evaluate()
    assert trainer.step(0).loss == other.step(0).loss
    assert setup.student.network.training
    assert setup.student.network.layer.self_attn.config._attn_implementation == "sdpa"


def test_held_out_texts_too_short_for_a_draft_still_give_a_tree(setup):
    setup.samples = setup.samples[:1]
    setup.features.texts = [replace(setup.features.texts[0], answer_L=torch.zeros(len(setup.samples[0])).bool())]
    result = evaluator(setup, prompts=1).evaluate()
    assert (result.line["drafts"], result.line["top1"][0], result.line["tau_foreseen"]) == (0, [0.0, 0.0], 0.0)
    assert result.tree.paths == ((0,), (0, 0))
