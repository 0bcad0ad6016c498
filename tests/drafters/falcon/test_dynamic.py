"""Trees grown again in every cycle."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

PROMPT = [3, 14, 15, 9, 2, 6]


@pytest.fixture(scope="module")
def target(tiny_model):
    return TargetModel(tiny_model("llama-gqa"))


def drafted(drafter, target, token=7):
    prompt_L = torch.tensor(PROMPT)
    drafter.start(prompt_L, target.prefill(prompt_L))
    return drafter.propose(token, 9)


@pytest.mark.parametrize(("k", "mixer"), [(1, "linear"), (2, "linear"), (2, "time"), (3, "position"), (3, "linear")])
@pytest.mark.parametrize("some", [False, True])
def test_decoding_is_lossless_and_keeps_to_the_budget(target, tiny_network, random_paths, k, mixer, some):
    network = tiny_network(target.decoder, seed=5, k=k, mixer=mixer)
    shape = TreeShape.from_paths(random_paths(30, torch.Generator().manual_seed(k), width=8))
    drafter = DynamicFalcon(network, target, shape, torch.arange(0, 48, 2) if some else None)
    plain = complete(target, Falcon(network, target, TreeShape.chain(1)), PROMPT, Stop((), 60))
    ours = complete(target, drafter, PROMPT, Stop((), 60))
    assert ours.ids == plain.ids
    assert max(cycle.nodes for cycle in ours.cycles) == len(shape)
    assert sum(cycle.accepted for cycle in ours.cycles) >= 1


@pytest.mark.parametrize(("k", "mixer"), [(1, "linear"), (2, "linear"), (2, "time"), (3, "linear")])
def test_a_chain_for_a_budget_grows_the_chain(target, tiny_network, k, mixer):
    """With one row a pass and one choice a node there is nothing to choose: the oracle is the static chain."""
    network = tiny_network(target.decoder, seed=2, k=k, mixer=mixer)
    chain = TreeShape.chain(3 * k)
    static, dynamic = (kind(network, target, chain) for kind in (Falcon, DynamicFalcon))
    for token in (7, 30):
        mine, its = drafted(dynamic, target, token), drafted(static, target, token)
        assert mine.tokens_T.tolist() == its.tokens_T.tolist()
        assert mine.parents == its.parents


def test_every_node_is_drafted_as_a_static_tree_drafts_it(target, tiny_network):
    """The nodes chosen, planted as a static tree of their ranks, give the same tokens: features, rows, masks."""
    network = tiny_network(target.decoder, seed=3, k=2, mixer="time")
    budget = [(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0)]
    budget += [(1, 0, 0, 0), (0, 0, 0, 0, 0), (1, 0, 0, 0, 0)]
    mine = drafted(DynamicFalcon(network, target, TreeShape.from_paths(budget)), target)
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(mine.parents):
        if node:
            children.setdefault(parent, []).append(node)
    paths = {0: ()}
    for parent, some in sorted(children.items()):
        for rank, node in enumerate(some):
            paths[node] = (*paths[parent], rank)
    shape = TreeShape.from_paths(path for path in paths.values() if path)
    static = drafted(Falcon(network, target, shape), target)
    tokens = {path: int(static.tokens_T[node]) for node, path in enumerate([(), *shape.paths])}
    assert {path: int(mine.tokens_T[node]) for node, path in paths.items()} == tokens
    assert len(mine) == len(budget) + 1


def test_the_likeliest_first_choices_are_kept(target, tiny_network):
    network = tiny_network(target.decoder, seed=4, k=1, mixer="linear")
    shape = TreeShape.from_paths([(rank,) for rank in range(5)])
    mine = drafted(DynamicFalcon(network, target, shape), target)
    static = drafted(Falcon(network, target, shape), target)
    assert mine.tokens_T.tolist() == static.tokens_T.tolist()


def test_without_room_or_with_a_short_text_the_root_stands_alone(target, tiny_network):
    network = tiny_network(target.decoder, k=3, mixer="linear")
    drafter = DynamicFalcon(network, target, TreeShape.chain(3))
    drafter.start(torch.tensor([5]), target.prefill(torch.tensor([5])))
    assert len(drafter.propose(7, 9)) == 1
    drafter.start(torch.tensor(PROMPT), target.prefill(torch.tensor(PROMPT)))
    assert len(drafter.propose(7, 0)) == 1
