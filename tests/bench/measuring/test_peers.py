"""Peers run on the same weights, and their tokens are counted as ours are."""

import pytest
import torch

from falcon_cli.attention.backend import implementation
from falcon_cli.bench.measuring import peers
from falcon_cli.bench.measuring.peers import GENERATE, LlamaCpp, check_peer, generate, peer_answers
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel

PROMPT = [3, 14, 15, 9, 2, 6, 3, 14, 15, 9]


@pytest.fixture
def target(tiny_model):
    return LoadedTarget("tiny", TargetModel(tiny_model()), tokenizer=None, stop_ids=frozenset({47}), dtype="fp64")


def ours(target, tokens):
    return complete(target.model, Autoregressive(torch.device("cpu")), PROMPT, Stop(target.stop_ids, tokens))


@pytest.mark.parametrize("peer", GENERATE)
def test_a_peer_says_what_plain_decoding_says_and_its_pieces_add_up(target, peer):
    plain, theirs = ours(target, 40), generate(peer, target, PROMPT, 40)
    assert theirs.ids == plain.ids
    assert theirs.finish == plain.finish
    assert theirs.prompt_tokens == len(PROMPT)
    assert 0 <= len(theirs.ids) - 1 - theirs.decode_tokens <= GENERATE[peer].get("prompt_lookup_num_tokens", 0)
    assert all(cycle.seconds > 0 for cycle in theirs.cycles)


def test_plain_generate_yields_one_token_a_piece(target):
    theirs = generate("hf", target, PROMPT, 20)
    assert [cycle.emitted for cycle in theirs.cycles] == [1] * (len(theirs.ids) - 1)


@pytest.mark.parametrize("peer", GENERATE)
def test_a_peer_ends_at_the_stop_token(tiny_model, peer):
    model = TargetModel(tiny_model())
    free = ours(LoadedTarget("tiny", model, None, frozenset(), "fp64"), 40).ids
    stop = free[9]
    target = LoadedTarget("tiny", model, None, frozenset({stop}), "fp64")
    theirs = generate(peer, target, PROMPT, 40)
    assert theirs.ids == free[: free.index(stop) + 1]
    assert theirs.finish == "stop"
    assert theirs.decode_tokens <= len(theirs.ids) - 1


def test_our_attention_is_back_after_a_peer_has_run(target):
    before = ours(target, 12).ids
    generate("hf", target, PROMPT, 5)
    assert target.model.model.config._attn_implementation == implementation("sdpa")
    assert ours(target, 12).ids == before


def test_an_unknown_peer_is_refused_with_the_nearest_name():
    check_peer("hf-pld", TargetRecipe())
    with pytest.raises(UsageError, match="did you mean hf-pld"):
        check_peer("hf-pdl", TargetRecipe())


def test_llama_cpp_is_refused_where_it_is_not_installed_or_reads_no_such_format(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the llama-cpp-python package: pip install 'falcon-cli\[llama-cpp\]'"):
        check_peer("llama-cpp", TargetRecipe())
    monkeypatch.setattr(peers, "find_spec", lambda name: name)
    with pytest.raises(UsageError, match=r"reads GGUF files, and .* is none"):
        check_peer("llama-cpp", TargetRecipe(str(tmp_path)))


class OtherEngine:
    """Stands where llama.cpp stands: hands over the target's own tokens, one by one."""

    def __init__(self, tokens):
        self.tokens, self.resets = tokens, 0

    def reset(self):
        self.resets += 1

    def generate(self, prompt, temp, repeat_penalty):
        assert (prompt, temp, repeat_penalty) == (PROMPT, 0.0, 1.0)
        yield from self.tokens


@pytest.mark.parametrize(("limit", "stop", "kept"), [(5, 99, 5), (30, 7, 8)])
def test_llama_cpps_tokens_are_counted_as_ours_are(limit, stop, kept):
    peer = LlamaCpp.__new__(LlamaCpp)
    peer.stop_ids, peer.model = frozenset({stop}), OtherEngine(list(range(40)))
    answer = peer.answer(PROMPT, limit)
    assert answer.ids == list(range(kept))
    assert answer.decode_tokens == kept - 1  # the first one is prefill's
    assert answer.finish == ("stop" if stop == 7 else "length")
    assert peer.model.resets == 1


def test_peers_of_a_target_on_torchs_operators_share_its_layers(target, monkeypatch):
    monkeypatch.setattr(peers, "load_target", None)
    answers = peer_answers(["hf"], TargetRecipe(), target)
    assert answers["hf"](PROMPT, 9).ids == ours(target, 9).ids


def test_a_llama_cpp_that_crashes_takes_only_its_trial_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "_TRIAL", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(FalconError, match=r"llama.cpp crashes on this processor \(SIGILL\): build it again"):
        peers._try_out(tmp_path)
    monkeypatch.setattr(peers, "_TRIAL", "")
    peers._try_out(tmp_path)


@pytest.mark.parametrize("peer", GENERATE)
def test_penalties_of_the_target_are_left_out(target, peer):
    target.model.model.generation_config.repetition_penalty = 1.3
    assert generate(peer, target, PROMPT, 30).ids == ours(target, 30).ids
