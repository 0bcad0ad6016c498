"""Rank paths, and that they predict the real decoding loop exactly."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tune_tree.measure.ranks import RankedText, RankPath, RankProbe, tokens_per_cycle

PROMPT = [3, 14, 15, 9, 2, 6]


def ranked(ranks):
    """A text whose rank paths are all given."""
    return RankedText(4, tuple(RankPath(tuple(one), True) for one in ranks))


@pytest.mark.parametrize(("k", "mixer"), [(1, "linear"), (2, "linear"), (2, "time"), (3, "position")])
@pytest.mark.parametrize("limited", [False, True])
def test_every_cycle_of_the_loop_is_predicted(tiny_model, tiny_network, random_paths, k, mixer, limited):
    """Whatever tree is decoded with, the walk over rank paths emits what the loop emits, cycle by cycle."""
    target = TargetModel(tiny_model("llama-gqa", seed=k))
    network = tiny_network(target.decoder, seed=5, k=k, mixer=mixer)
    drafter = Falcon(network, target, TreeShape.chain(k), torch.arange(0, 48, 2) if limited else None)
    plain = complete(target, drafter, PROMPT, Stop((), 120)).ids
    text = RankProbe(drafter, depth=4, width=24).probe(target, PROMPT, plain)
    generator = torch.Generator().manual_seed(k)
    accepted = 0
    for _ in range(4):
        shape = TreeShape.from_paths(random_paths(60, generator, max_depth=4, width=16))
        completion = complete(target, drafter.with_tree(shape), PROMPT, Stop((), 120))
        assert completion.ids == plain
        assert text.walk(shape) == [cycle.emitted for cycle in completion.cycles]
        accepted += sum(cycle.accepted for cycle in completion.cycles)
    assert accepted > 8, "a text on which nothing is accepted proves nothing"


def test_a_text_that_stops_is_predicted_too(tiny_model, tiny_network, random_paths):
    target = TargetModel(tiny_model("llama-gqa", seed=2))
    drafter = Falcon(tiny_network(target.decoder, seed=5, k=2, mixer="linear"), target, TreeShape.chain(2))
    endless = complete(target, drafter, PROMPT, Stop((), 60)).ids
    for end in sorted(set(endless), key=endless.index)[2:8]:
        plain = complete(target, drafter, PROMPT, Stop((end,), 60)).ids
        text = RankProbe(drafter, depth=4, width=24).probe(target, PROMPT, plain)
        wide = TreeShape.from_paths([(rank,) for rank in range(24)] + [(rank, 0) for rank in range(24)])
        completion = complete(target, drafter.with_tree(wide), PROMPT, Stop((end,), 60))
        assert text.walk(wide) == [cycle.emitted for cycle in completion.cycles]


def test_a_text_shorter_than_a_block_has_no_drafts_at_first(tiny_model, tiny_network):
    target = TargetModel(tiny_model("llama-gqa"))
    drafter = Falcon(tiny_network(target.decoder, k=3, mixer="linear"), target, TreeShape.chain(3))
    plain = complete(target, drafter, [7], Stop((), 20)).ids
    text = RankProbe(drafter, depth=3, width=48).probe(target, [7], plain)
    assert text.paths[0].ranks == text.paths[1].ranks == ()
    assert len(text.paths[2].ranks) == 3, "with all candidates there is no miss"


def test_ends_are_open_where_the_answer_broke_off(tiny_model, tiny_network):
    target = TargetModel(tiny_model("llama-gqa"))
    drafter = Falcon(tiny_network(target.decoder, k=2, mixer="linear"), target, TreeShape.chain(2))
    plain = complete(target, drafter, PROMPT, Stop((), 12)).ids
    text = RankProbe(drafter, depth=4, width=48).probe(target, PROMPT, plain)  # all candidates: never a miss
    assert [one.complete for one in text.paths] == [True] * 8 + [False] * 3
    assert [len(one.ranks) for one in text.paths] == [4] * 8 + [3, 2, 1]


def test_the_walk_takes_the_longest_path_in_the_tree_and_a_bonus_token():
    shape = TreeShape.from_paths([(0,), (1,), (0, 0), (0, 0, 2)])
    text = ranked([(0, 0, 2, 0), (5,), (1, 0), (0, 1), (0, 0), (1,)])
    assert text.walk(shape) == [4, 2]  # three drafted tokens and the bonus; one, and the last token as bonus
    assert text.walk(TreeShape(())) == [1] * 6
    assert tokens_per_cycle([text, text], shape) == 3
    assert tokens_per_cycle([], shape) == 1
