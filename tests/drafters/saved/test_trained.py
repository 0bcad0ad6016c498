"""The trained methods; EAGLE, Falcon's network with k = 1, is held against EAGLE written down by itself."""

from typing import get_args

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from falcon_cli.core import Scores
from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.saved.trained import TRAINED
from falcon_cli.recipe.distill import NetworkRecipe, TrainableMethod
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

RAW = {"k": 1, "mixer": "linear", "start": "own", "normalise": False}


def eagle(network, decoder, embedded_LD, features_LD):
    """EAGLE's forward as described: one linear layer, one causal decoder layer, a feature for each position."""
    layer = LlamaDecoderLayer(decoder.config, layer_idx=0).to(embedded_LD.dtype)
    layer.load_state_dict({name: network.layer.state_dict()[name] for name in layer.state_dict()})
    mixed = torch.cat([embedded_LD, features_LD], -1) @ network.mixer.weight.T
    length = len(mixed)
    causal = torch.full((length, length), float("-inf"), dtype=mixed.dtype).triu(1)[None, None]
    rotary = LlamaRotaryEmbedding(decoder.config)(mixed[None], torch.arange(length)[None])
    layer.self_attn.config._attn_implementation = "eager"
    return layer(mixed[None], attention_mask=causal, position_embeddings=rotary)[0]


@pytest.fixture
def pair(tiny_model, tiny_network):
    target = TargetModel(tiny_model("llama-gqa"))
    return target, tiny_network(target.decoder, **RAW)


@torch.no_grad()
def test_the_network_is_eagle_s(pair, tiny_model):
    _, network = pair
    assert network.recipe.is_eagle
    assert not network.chained
    embedded, features = torch.randn(2, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = Blocks.of_texts(torch.tensor([9]), 9, 1, 0)
    ours = network(embedded[None], features[None], mask, embedded[None])[0]
    theirs = eagle(network, tiny_model("llama-gqa").get_decoder(), embedded, features)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # norms are taken in fp32 on both sides


@torch.no_grad()
def test_a_draft_is_what_eagle_s_steps_give(pair, tiny_model):
    """Token by token, each step reading the whole text and the features predicted so far."""
    target, network = pair
    decoder, weight_VD = tiny_model("llama-gqa").get_decoder(), target.head.weight
    embed = target.model.get_input_embeddings().weight
    prompt = torch.tensor([5, 9, 2, 17, 30])
    scores = target.prefill(prompt)
    tokens, features = [*prompt[1:].tolist(), 11], scores.features_TD
    expected = []
    for _ in range(4):
        made = eagle(network, decoder, embed[torch.tensor(tokens)], features)[-1:]
        expected.append(int((made @ weight_VD.T).argmax()))
        tokens, features = [*tokens, expected[-1]], torch.cat([features, made])
    drafter = Falcon(network, target, TreeShape.chain(4))
    drafter.start(prompt, Scores.of(scores.logits_TV, scores.features_TD))
    assert drafter.propose(11, 4).tokens_T.tolist() == [11, *expected]


def test_other_networks_are_not_eagle_s():
    for change in ({"k": 2}, {"mixer": "time"}, {"start": "block"}):
        assert not NetworkRecipe(**{**RAW, **change}).is_eagle


def test_every_trained_method_can_be_asked_for_and_says_what_it_is():
    assert {*TRAINED, "sps"} == set(get_args(TrainableMethod))
    assert all(method.summary and method.card_title and method.citation for method in TRAINED.values())


def test_only_eagle_refuses_a_network_that_is_not_its_own():
    falcon = NetworkRecipe()
    assert {name for name in ("falcon", "eagle") if TRAINED[name].refusal(falcon)} == {"eagle"}
    assert TRAINED["eagle"].refusal(NetworkRecipe(**RAW)) is None
