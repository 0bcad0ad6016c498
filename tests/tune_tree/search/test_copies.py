"""What copying finds in known texts, and that it predicts the real decoding loop exactly."""

from dataclasses import replace

import pytest

from falcon_cli.costs.table import CostTable, DraftCost
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.shared.copy_first import CopyFirst
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.passes import passes_of
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath, RankProbe
from falcon_cli.tune_tree.measure.texts import CalibrationPrompt, GreedyText
from falcon_cli.tune_tree.search.candidates import DrafterProfile, candidates
from falcon_cli.tune_tree.search.copies import (
    NGRAMS,
    CopiedRun,
    FallbackTree,
    best_length,
    copies_in,
    copy_candidates,
    walk,
)

PROMPT = [3, 14, 15, 9, 2, 6, 3, 14]


def text(prompt, answer):
    return GreedyText(CalibrationPrompt("a", tuple(prompt)), tuple(answer))


def costs(node_ms):
    """A forward of 10 ms and so much for each node but the first."""
    return CostTable(
        "a CPU", "tiny", "fp32", {8: {1: 10.0, 65: 10.0 + 64 * node_ms}}, {2: DraftCost(1, 1, 0, 0, 0)}, 0.0
    )


def test_copies_are_what_followed_and_right_as_far_as_the_answer_agrees():
    found = copies_in(text([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 9, 2, 3, 4, 5]), ngram=3)
    nothing = CopiedRun(0, 0)
    copied = CopiedRun(
        5, 1
    )  # 2 3 4 is followed by 5 6 2 3 4 in the prompt and the answer so far, the answer goes on 5 9
    assert found == [nothing, nothing, copied, CopiedRun(5, 0), nothing, nothing, nothing, CopiedRun(5, 1)]


@pytest.mark.parametrize("length", [1, 3, 7])
def test_every_cycle_of_the_loop_is_predicted(tiny_model, tiny_network, length):
    target = TargetModel(tiny_model("llama-gqa", seed=1))
    shape = TreeShape.from_paths([(0,), (1,), (0, 0)])
    falcon = Falcon(tiny_network(target.decoder, seed=5, k=2, mixer="linear"), target, shape)
    plain = complete(target, falcon, PROMPT, Stop((), 120)).ids
    ranked = RankProbe(falcon, depth=2, width=24).probe(target, PROMPT, plain)
    lookup = PromptLookup(target.device, PldOptions(2, 2, length))
    completion = complete(target, CopyFirst(falcon, lookup), PROMPT, Stop((), 120))
    fallback = FallbackTree.of(profile([ranked]), shape, costs(1.0), 8)
    cycles = list(walk(copies_in(text(PROMPT, plain), ngram=2), fallback.accepted[0], length))
    assert [emitted for _, emitted in cycles] == [cycle.emitted for cycle in completion.cycles]
    nodes = [1 + copied if copied else len(shape) for copied, _ in cycles]
    assert nodes[:-2] == [cycle.nodes for cycle in completion.cycles][:-2]  # the last have less room
    assert {bool(copied) for copied, _ in cycles} == {True, False}


def profile(texts):
    return DrafterProfile(2, True, tuple(texts), 4, 16.0, 1)


def best_of(pairs, shape, table, ngram=3):
    """The best length beside a tree on answers with their rank paths."""
    fallback = FallbackTree.of(profile([ranked for ranked, _ in pairs]), shape, table, 8)
    return best_length(fallback, [copies_in(said, ngram) for _, said in pairs], ngram, table, 8)


@pytest.mark.parametrize("node_ms", [0.0, 5.0])
def test_where_the_text_is_said_again_all_of_it_is_copied(node_ms):
    """After three tokens six more are copied and right; a token decoded plainly costs 10 ms."""
    said = range(11, 20)
    best = best_of([(unknown(9), text(said, [*said, 99]))], TreeShape(()), costs(node_ms))
    assert best.policy == CopyPolicy(3, 6, TreeShape(()))
    assert best.tokens_per_second == pytest.approx(1000 * 9 / (2 * 10 + 10 + 6 * node_ms))


def unknown(places):
    """An answer of which the drafter guesses nothing."""
    return RankedText(9, (RankPath((), True),) * places)


def test_where_one_token_is_right_but_the_next_is_not_one_is_copied():
    """1 2 3 is followed by 4 each time, and 4 by something new."""
    answer = [token for new in range(70, 80) for token in (1, 2, 3, 4, new)]
    pairs = [(unknown(len(answer) - 1), text([1, 2, 3, 4, 5], answer))]
    assert best_of(pairs, TreeShape(()), costs(1.0)).policy.tokens == 1


def test_one_long_copy_among_many_texts_does_not_decide():
    """Three tokens are right in each of a hundred texts, twelve in one more: less than a hundredth is in it."""
    usual = text([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 99])
    rare = text(range(11, 26), [*range(11, 26), 99])
    pairs = [(unknown(len(one.answer) - 1), one) for one in [usual] * 100 + [rare]]
    assert best_of(pairs, TreeShape(()), costs(0.0)).policy.tokens == 3
    assert best_of(pairs[-1:], TreeShape(()), costs(0.0)).policy.tokens == 12


def test_where_nothing_repeats_the_speed_is_the_trees():
    ranked = RankedText(3, (RankPath((0,), True), RankPath((), True), RankPath((), False)))
    best = best_of([(ranked, text([1, 2, 3], [4, 5, 6, 7]))], TreeShape.chain(1), costs(1.0))
    assert best.policy.tokens == 1
    draft = costs(1.0).draft[2].of(passes_of(TreeShape.chain(1), 2, True))
    assert best.tokens_per_second == pytest.approx(1000 * 3 / (2 * (11 + draft)))


def test_a_tree_that_pays_alone_need_not_pay_beside_copies():
    """The drafter guesses only what is said again: where copies tell that for nothing, its tree is given up."""
    said = list(range(11, 21))
    answer = [*said, *range(60, 70)]
    ranks = [RankPath((0, 0), True)] * 9 + [RankPath((), True)] * 10
    made = profile([RankedText(10, tuple(ranks))])
    table = costs(0.0)
    trees = candidates(made, table, 8, nodes=4, passes=1)
    alone = max(trees, key=lambda one: one.tokens_per_second)
    assert alone.tokens_per_second > 1000 / table.plain_ms(8)
    best, *others = copy_candidates(made, trees, [text(said, answer)], table, 8)
    assert best.policy == CopyPolicy(1, 9, TreeShape(()))
    assert best.name == "k = 2, no nodes, 9 copied after 1"
    assert {one.policy.ngram for one in others} == set(NGRAMS)
    assert [one.tokens_per_second for one in others] == sorted((one.tokens_per_second for one in others), reverse=True)


def test_trees_far_behind_are_not_tried():
    made = profile([RankedText(10, (RankPath((0,), True),) * 9)])
    table = costs(10.0)
    trees = candidates(made, table, 8, nodes=2, passes=1)
    slow = replace(trees[0], shape=TreeShape.chain(2), cycle_ms=1000.0)
    found = copy_candidates(made, [trees[0], slow], [text([1, 2, 3], [4] * 10)], table, 8)
    assert {one.policy.shape for one in found} == {TreeShape(()), trees[0].shape}
