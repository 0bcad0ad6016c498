"""Peers run on the same weights, and their tokens are counted as ours are."""

import pytest
import torch

from falcon_cli.baselines.autoregressive import Autoregressive
from falcon_cli.bench.peers import PEERS, check_peer, peer_complete
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.errors import UsageError
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

PROMPT = [3, 14, 15, 9, 2, 6, 3, 14, 15, 9]


@pytest.fixture
def target(tiny_model):
    return LoadedTarget("tiny", TargetModel(tiny_model()), tokenizer=None, stop_ids=frozenset({47}), dtype="fp64")


def ours(target, tokens):
    return complete(target.model, Autoregressive(torch.device("cpu")), PROMPT, Stop(target.stop_ids, tokens))


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_says_what_plain_decoding_says_and_its_pieces_add_up(target, peer):
    plain, theirs = ours(target, 40), peer_complete(peer, target, PROMPT, 40)
    assert theirs.ids == plain.ids
    assert theirs.finish == plain.finish
    assert theirs.prompt_tokens == len(PROMPT)
    assert 0 <= len(theirs.ids) - 1 - theirs.decode_tokens <= PEERS[peer].get("prompt_lookup_num_tokens", 0)
    assert all(cycle.seconds > 0 for cycle in theirs.cycles)


def test_plain_generate_yields_one_token_a_piece(target):
    theirs = peer_complete("hf", target, PROMPT, 20)
    assert [cycle.emitted for cycle in theirs.cycles] == [1] * (len(theirs.ids) - 1)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_ends_at_the_stop_token(tiny_model, peer):
    model = TargetModel(tiny_model())
    free = ours(LoadedTarget("tiny", model, None, frozenset(), "fp64"), 40).ids
    stop = free[9]
    target = LoadedTarget("tiny", model, None, frozenset({stop}), "fp64")
    theirs = peer_complete(peer, target, PROMPT, 40)
    assert theirs.ids == free[: free.index(stop) + 1]
    assert theirs.finish == "stop"
    assert theirs.decode_tokens <= len(theirs.ids) - 1


def test_our_attention_is_back_after_a_peer_has_run(target):
    before = ours(target, 12).ids
    peer_complete("hf", target, PROMPT, 5)
    assert target.model.model.config._attn_implementation == "falcon_sdpa"
    assert ours(target, 12).ids == before


def test_an_unknown_peer_is_refused_with_the_nearest_name():
    check_peer("hf-pld")
    with pytest.raises(UsageError, match="did you mean hf-pld"):
        check_peer("hf-pdl")
