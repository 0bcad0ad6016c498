"""A look at held-out text."""

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.examiner import Examiner
from falcon_cli.drafter.propose import Falcon


def test_a_look_tells_accuracy_a_tree_and_the_real_tau(classroom):
    room = classroom(draft_vocab_size=30)
    look = Examiner(room.target, room.pupil, room.lessons.lessons, room.samples, prompts=2).look()
    assert len(look.line["top1"]) == 4  # four passes to depth 8
    assert all(len(slots) == 2 for slots in look.line["top5"])
    assert 0 <= look.line["tau_foreseen"] <= 8
    assert len(look.tree) <= 32
    drafter = Falcon(room.pupil.grown(), room.target.model, look.tree, room.pupil.vocabulary_W)
    cycles = []
    for sample in room.samples[:2]:
        prompt = list(sample.tokens[: sample.answer.index(True)])
        cycles += complete(room.target.model, drafter, prompt, Stop(room.target.stop_ids, 64)).cycles
    assert look.line["tau"] == round(sum(cycle.accepted for cycle in cycles) / len(cycles), 4)


def test_without_prompts_nothing_is_decoded(classroom):
    room = classroom()
    assert Examiner(room.target, room.pupil, room.lessons.lessons, room.samples, prompts=0).look().line["tau"] is None


def test_the_network_in_training_is_left_as_it_is(classroom):
    room = classroom()
    Examiner(room.target, room.pupil, room.lessons.lessons, room.samples, prompts=1).look()
    assert room.pupil.network.training
    assert room.pupil.network.layer.self_attn.config._attn_implementation == "sdpa"
    room.trainer().step(0)
