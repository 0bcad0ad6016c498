"""Falcon beside a drafter that copies."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.shared.copy_first import CopyFirst
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

PROMPT = [3, 14, 15, 9, 2, 6, 3, 14]


@pytest.fixture(scope="module")
def target(tiny_model):
    return TargetModel(tiny_model("llama-gqa"))


def started(drafter, target, text):
    text_L = torch.tensor(text)
    drafter.start(text_L, target.prefill(text_L))
    return drafter


@pytest.mark.parametrize(("k", "mixer"), [(1, "linear"), (2, "time"), (3, "linear")])
def test_decoding_is_lossless_and_both_draft(target, tiny_network, k, mixer):
    falcon = Falcon(tiny_network(target.decoder, seed=5, k=k, mixer=mixer), target, TreeShape.chain(2))
    drafter = CopyFirst(falcon, PromptLookup(target.device, PldOptions(2, 2)))
    plain = complete(target, falcon, PROMPT, Stop((), 80))
    ours = complete(target, drafter, PROMPT, Stop((), 80))
    assert ours.ids == plain.ids
    assert {cycle.nodes for cycle in ours.cycles} >= {3, 8}, "a tree of three nodes, or a copied chain of eight"
    assert len(ours.cycles) < len(plain.cycles)


def test_a_copied_chain_comes_before_the_tree(target, tiny_network):
    falcon = Falcon(tiny_network(target.decoder, k=2, mixer="linear"), target, TreeShape.chain(2))
    drafter = started(CopyFirst(falcon, PromptLookup(target.device, PldOptions(2, 2))), target, PROMPT[:-1])
    assert drafter.propose(14, 4).tokens_T.tolist() == [14, 15, 9, 2, 6]
    drafter = started(drafter, target, PROMPT[:-1])
    assert len(drafter.propose(40, 4)) == 3


def test_after_copied_cycles_falcon_drafts_as_if_it_had_drafted_all_along(target, tiny_network):
    """What it reads late, all at once, it reads as it would have read it cycle by cycle."""
    network = tiny_network(target.decoder, seed=3, k=2, mixer="time")
    drafts = []
    for skipping in (False, True):
        falcon = started(Falcon(network, target, TreeShape.chain(4)), target, PROMPT)
        target.prefill(torch.tensor(PROMPT))
        for token in (7, 30, 12):
            if skipping:
                falcon.note_root(token)
            else:
                falcon.propose(token, 4)
            text = [*PROMPT, 7, 30, 12][: len(PROMPT) + (7, 30, 12).index(token) + 1]
            scores = target.prefill(torch.tensor(text))
            falcon._features.append(scores.features_TD[-1:])
        drafts.append(falcon.propose(21, 4).tokens_T.tolist())
    assert drafts[0] == drafts[1]
