"""What copying finds in known texts, and that it foresees the real decoding loop exactly."""

import pytest

from falcon_cli.baselines.pld import PldOptions, PromptLookup
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafter.copying import CopyFirst
from falcon_cli.drafter.propose import Falcon
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.calibration import GreedyText, Prompt
from falcon_cli.tune_tree.copies import Copy, best_length, copies_in, walk
from falcon_cli.tune_tree.cost import CostTable, DraftCost
from falcon_cli.tune_tree.ranks import RankPath, WatchedText, Witness

PROMPT = [3, 14, 15, 9, 2, 6, 3, 14]


def text(prompt, answer):
    return GreedyText(Prompt("a", tuple(prompt)), tuple(answer))


def costs(node_ms):
    """A forward of 10 ms and so much for each node but the first."""
    return CostTable(
        "a CPU", "tiny", "fp32", {8: {1: 10.0, 65: 10.0 + 64 * node_ms}}, {2: DraftCost(1, 1, 0, 0, 0)}, 0.0
    )


def test_copies_are_what_followed_and_right_as_far_as_the_answer_agrees():
    found = copies_in(text([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 9, 2, 3, 4, 5]), ngram=3)
    nothing = Copy(0, 0)
    copied = Copy(5, 1)  # 2 3 4 is followed by 5 6 2 3 4 in the prompt and the answer so far, the answer goes on 5 9
    assert found == [nothing, nothing, copied, Copy(5, 0), nothing, nothing, nothing, Copy(5, 1)]


@pytest.mark.parametrize("length", [1, 3, 7])
def test_every_cycle_of_the_loop_is_foreseen(tiny_model, tiny_network, length):
    target = TargetModel(tiny_model("llama-gqa", seed=1))
    shape = TreeShape.from_paths([(0,), (1,), (0, 0)])
    falcon = Falcon(tiny_network(target.decoder, seed=5, k=2, mixer="linear"), target, shape)
    plain = complete(target, falcon, PROMPT, Stop((), 120)).ids
    watched = Witness(falcon, depth=2, width=24).watch(target, PROMPT, plain)
    lookup = PromptLookup(target.device, PldOptions(2, 2, length))
    completion = complete(target, CopyFirst(falcon, lookup), PROMPT, Stop((), 120))
    cycles = list(walk(watched, copies_in(text(PROMPT, plain), ngram=2), shape, length))
    assert [emitted for _, emitted in cycles] == [cycle.emitted for cycle in completion.cycles]
    nodes = [1 + copied if copied else len(shape) for copied, _ in cycles]
    assert nodes[:-2] == [cycle.nodes for cycle in completion.cycles][:-2]  # the last have less room
    assert {bool(copied) for copied, _ in cycles} == {True, False}


@pytest.mark.parametrize("node_ms", [0.0, 5.0])
def test_where_the_text_is_said_again_all_of_it_is_copied(node_ms):
    """After three tokens six more are copied and right; a token decoded plainly costs 10 ms."""
    said = range(11, 20)
    watched = WatchedText(9, (RankPath((), True),) * 9)
    best = best_length([(watched, text(said, [*said, 99]))], TreeShape(()), 10.0, costs(node_ms), 8)
    assert best.length == 6
    assert best.tokens_per_second == pytest.approx(1000 * 9 / (2 * 10 + 10 + 6 * node_ms))


def test_where_one_token_is_right_but_the_next_is_not_one_is_copied():
    """1 2 3 is followed by 4 each time, and 4 by something new."""
    answer = [token for new in range(70, 80) for token in (1, 2, 3, 4, new)]
    watched = WatchedText(5, (RankPath((), True),) * (len(answer) - 1))
    best = best_length([(watched, text([1, 2, 3, 4, 5], answer))], TreeShape(()), 10.0, costs(1.0), 8)
    assert best.length == 1


def test_one_long_copy_among_many_texts_does_not_decide():
    """Three tokens are right in each of a hundred texts, twelve in one more: less than a hundredth is in it."""
    usual = text([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 99])
    rare = text(range(11, 26), [*range(11, 26), 99])
    texts = [(WatchedText(9, (RankPath((), True),) * (len(one.answer) - 1)), one) for one in [usual] * 100 + [rare]]
    free = costs(0.0)
    assert best_length(texts, TreeShape(()), 10.0, free, 8).length == 3
    assert best_length(texts[-1:], TreeShape(()), 10.0, free, 8).length == 12


def test_where_nothing_repeats_the_speed_is_the_trees():
    watched = WatchedText(3, (RankPath((0,), True), RankPath((), True), RankPath((), False)))
    best = best_length([(watched, text([1, 2, 3], [4, 5, 6, 7]))], TreeShape.chain(1), 20.0, costs(1.0), 8)
    assert best.length == 1
    assert best.tokens_per_second == pytest.approx(1000 * 3 / (2 * 20.0))
