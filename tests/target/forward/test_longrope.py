"""Phi-3's two tables of angles: a text crosses the boundary as transformers' own `generate` does."""

import pytest
import torch

from falcon_cli.core import Draft
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.lookahead import Lookahead, LookaheadOptions
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.target.forward.longrope import boundary_of
from falcon_cli.target.model import TargetModel

CPU = torch.device("cpu")
BOUNDARY, NEW = 24, 40


def phi3(seed=0):
    """Tiny, with a short and a long table that differ much."""
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=BOUNDARY,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=None,
        bos_token_id=None,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 100.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [3.0, 4.0, 5.0, 6.0],
            "original_max_position_embeddings": BOUNDARY,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Phi3ForCausalLM(config).double().eval()


def own_words(prompt):
    """What `generate` says."""
    out = phi3().generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


def drafters():
    return {
        "ar": Autoregressive(CPU),
        "pld": PromptLookup(CPU, PldOptions()),
        "lookahead": Lookahead(CPU, LookaheadOptions()),
    }


@pytest.mark.parametrize("method", ["ar", "pld", "lookahead"])
@pytest.mark.parametrize("length", [BOUNDARY - 9, BOUNDARY - 1, BOUNDARY, BOUNDARY + 1, 3 * BOUNDARY])
@pytest.mark.parametrize("chunk", [7, 512])
def test_a_text_crosses_the_boundary_as_generates_does(method, length, chunk):
    prompt = torch.randint(3, 48, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    target = TargetModel(phi3(), chunk=chunk)
    for _ in range(2):  # a second text after one that went over
        answer = complete(target, drafters()[method], prompt, Stop((), NEW))
        assert answer.ids == own_words(prompt)


def test_a_draft_never_reaches_over_the_boundary():
    target = TargetModel(phi3())
    target.prefill(torch.arange(3, 3 + BOUNDARY - 5))
    assert target.draft_room == 4  # the root stands at position 19, the deepest node at 23
    target.score(Draft.chain([3, 4, 5, 6, 7], CPU))
    target.commit(range(5))
    assert target.cache.length == BOUNDARY
    assert target.draft_room > NEW  # the text will be read anew


def test_the_short_table_serves_again_after_a_long_text():
    target = TargetModel(phi3())
    short = torch.arange(3, 15)
    first = target.prefill(short).logits_TV
    target.prefill(torch.arange(3, 40))
    torch.testing.assert_close(target.prefill(short).logits_TV, first, rtol=0, atol=0)


def test_rewinding_forgets_the_text_too():
    target = TargetModel(phi3())
    target.prefill(torch.arange(3, 23))
    target.rewind(10)
    target.score(Draft.chain([5, 6, 7], CPU))
    target.commit(range(3))
    assert torch.cat(target._text).tolist() == [*range(3, 13), 5, 6, 7]


def test_other_models_have_no_boundary(tiny_model):
    assert boundary_of(phi3().config) == BOUNDARY
    assert boundary_of(tiny_model().config) is None
    assert TargetModel(tiny_model()).draft_room == 256
