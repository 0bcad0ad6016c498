from types import SimpleNamespace

import pytest
import torch

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.view import View
from falcon_cli.kv_cache import LayerCache
from falcon_cli.studies.families import built
from falcon_cli.target.forward.own import CausalForward, HeadInput
from falcon_cli.target.guard.shrink import made_twin

TOKENS = torch.tensor([5, 9, 40, 41, 3, 9, 9, 17, 60])
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(params=["granite", "gemma2", "gpt2", "opt", "modernbert-decoder", "phi"])
def twin(request):
    """Multipliers, caps, no rotary angles, a projection before the head, a head called decoder, a bias in the head."""
    return made_twin(built(request.param))[0]


def read(forward, tokens_T, cache, **how):
    cache.reserve(len(tokens_T))
    with torch.inference_mode():
        return forward(tokens_T, cache, **how)


def expected(model, tokens_T=TOKENS):
    with torch.inference_mode():
        return model(tokens_T[None], use_cache=False).logits[0]


def test_logits_are_the_models_own_in_pieces_too(twin):
    own_LV, forward, cache = expected(twin), CausalForward(twin), LayerCache(64)
    first_TV, _ = read(forward, TOKENS[:4], cache)
    cache.commit(range(4))
    last_1V, features_TD = read(forward, TOKENS[4:], cache, last=True)
    torch.testing.assert_close(first_TV, own_LV[:4], **CLOSE)
    assert last_1V.shape == (1, 64)
    torch.testing.assert_close(last_1V, own_LV[-1:], **CLOSE)
    assert len(features_TD) == 5


def test_a_view_gives_the_rows_positions_and_what_they_see(twin):
    own_LV = expected(twin, TOKENS[[0, 1, 2, 5]])
    twin.set_attn_implementation(implementation("sdpa"))
    forward, cache = CausalForward(twin), LayerCache(64)
    read(forward, TOKENS[:2], cache, view=View(0, torch.arange(2), None))
    cache.commit(range(2))
    ancestors_TT = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)  # another token, then 2 and 5
    logits_TV, _ = read(forward, TOKENS[[7, 2, 5]], cache, view=View(2, torch.tensor([0, 0, 1]), ancestors_TT))
    torch.testing.assert_close(logits_TV[1:], own_LV[2:], **CLOSE)


@pytest.mark.parametrize("family", ["llama", "granite", "gpt2", "modernbert-decoder"])
def test_features_are_what_the_head_reads_one_row_each(family):
    twin, dtype = made_twin(built(family))
    _, features_TD = read(CausalForward(twin), TOKENS, LayerCache(64), last=True)
    head, scaling = twin.get_output_embeddings(), getattr(twin.config, "logits_scaling", 1.0)
    torch.testing.assert_close(head(features_TD) / scaling, expected(twin), **CLOSE)
    assert features_TD.dtype == dtype


def test_other_forwards_leave_nothing_behind(twin):
    forward = CausalForward(twin)
    expected(twin)
    assert forward._features is None
    read(forward, TOKENS, LayerCache(64))
    assert forward._features is None


def test_released_hooks_are_gone(twin):
    hooked = (twin.get_decoder(), twin.get_output_embeddings(), twin.get_input_embeddings())
    CausalForward(twin, torch.float32).release()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hooked)


def test_hidden_states_are_of_the_wanted_dtype():
    twin = made_twin(built("llama"))[0].to(torch.bfloat16)
    forward = CausalForward(twin, torch.float32)
    seen = []
    twin.get_decoder().layers[0].input_layernorm.register_forward_pre_hook(lambda m, given: seen.append(given[0].dtype))
    for module in twin.modules():
        if isinstance(module, torch.nn.Linear):
            module.float()
    read(forward, TOKENS, LayerCache(64))
    assert seen == [torch.float32]


def test_a_model_is_told_only_what_it_takes():
    class Bare(torch.nn.Module):
        """It knows no use_cache and no logits_to_keep."""

        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8)

        def get_decoder(self):
            return self.inner

        def get_output_embeddings(self):
            return self.head

        def forward(self, input_ids, past_key_values=None):
            assert past_key_values is cache
            return SimpleNamespace(logits=self.head(self.inner(input_ids)))

    cache = LayerCache(64)
    logits_TV, features_TD = read(CausalForward(Bare()), torch.tensor([1, 2, 3]), cache, last=True)
    assert (logits_TV.shape, features_TD.shape) == ((1, 8), (3, 4))


@pytest.mark.parametrize(
    ("family", "made_by", "factor"),
    [("llama", "norm", 1.0), ("gpt2", "ln_f", 1.0), ("minicpm3", "norm", 8.0), ("roberta", "layer_norm", 1.0)],
)
def test_a_look_tells_what_the_head_reads(family, made_by, factor):
    twin, _ = made_twin(built(family))
    forward = CausalForward(twin)
    with torch.no_grad():
        seen = forward.look(TOKENS[:2], LayerCache(64))
    name = next(name for name, module in twin.named_modules() if module is seen.module)
    assert name.split(".")[-1] == made_by
    assert seen.factor == pytest.approx(factor)
    assert forward.by_head == (family in ("minicpm3", "roberta"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "minicpm3", "roberta"])
def test_features_of_padded_texts_are_those_of_each(family):
    twin, _ = made_twin(built(family))
    forward = CausalForward(twin)
    with torch.no_grad():
        forward.look(TOKENS[:2], LayerCache(64))
        padded_BL = torch.stack([TOKENS, torch.cat([TOKENS[4:], torch.zeros(4, dtype=torch.long)])])
        features_BLD = forward.features(padded_BL, use_cache=False)
        logits_BLV = twin.get_output_embeddings()(features_BLD)
        torch.testing.assert_close(logits_BLV[0], forward.own_logits(TOKENS), **CLOSE)
        torch.testing.assert_close(logits_BLV[1, :5], forward.own_logits(TOKENS[4:]), **CLOSE)


def test_a_head_that_is_no_module_of_its_own_is_told():
    twin, _ = made_twin(built("llama"))
    forward, head = CausalForward(twin), twin.get_output_embeddings()
    twin.lm_head = torch.nn.Linear(32, 64, bias=False).double()
    twin.get_output_embeddings = lambda: head
    with torch.no_grad():
        assert forward.look(TOKENS[:2], LayerCache(64)) == HeadInput()


def test_outputs_of_our_choice_take_the_head_s_place():
    twin, _ = made_twin(built("gemma2"))
    forward, ours = CausalForward(twin), torch.full((1, 64), 1e6)
    with torch.no_grad():
        outputs, logits = forward.behind_head(TOKENS[:2], LayerCache(64), None, ours)
    assert torch.equal(outputs[2:], ours.double())
    assert logits[2].tolist() == [30.0] * 64
    torch.testing.assert_close(logits[:2], forward.own_logits(TOKENS[:2]), **CLOSE)
