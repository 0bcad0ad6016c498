"""Falcon with a random drafter, in every form and with any tree, changes nothing."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

VOCAB = 48
MIXERS = ("time", "position", "linear")


@pytest.mark.parametrize("k", range(1, 5))
def test_ids_equal_plain_decoding(tiny_model, tiny_network, random_paths, family, k):
    target = TargetModel(tiny_model(family, k), chunk=8)
    generator = torch.Generator().manual_seed(k)
    for number, length in enumerate((1, 2, 13)):
        prompt = torch.randint(VOCAB, (length,), generator=generator).tolist()
        plain = complete(target, Autoregressive(target.device), prompt, Stop((), 14))
        network = tiny_network(target.decoder, number, k=k, mixer=MIXERS[(k + number) % 3], normalise=number != 1)
        vocabulary_W = torch.arange(0, VOCAB, 1 + number)
        for nodes in (1, 18):
            shape = TreeShape.from_paths(random_paths(nodes, generator))
            drafter = Falcon(network, target, shape, vocabulary_W)
            for _ in range(2):  # a drafter forgets the text before
                answer = complete(target, drafter, prompt, Stop((), 14))
                assert answer.ids == plain.ids
                drafted = [cycle.nodes for cycle in answer.cycles if cycle.nodes > 1]
                assert drafted or length < k


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_drafter_may_reach_the_end_of_the_context(tiny_model, tiny_network, mixer):
    target = TargetModel(tiny_model("llama-gqa", max_position_embeddings=40))
    prompt = list(range(25))
    plain = complete(target, Autoregressive(target.device), prompt, Stop((), 15))
    shape = TreeShape.from_paths([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 1, 0), (1, 0, 0)])
    drafter = Falcon(tiny_network(target.decoder, k=2, mixer=mixer), target, shape)
    assert complete(target, drafter, prompt, Stop((), 15)).ids == plain.ids
