import pytest
import torch
from torch import nn

from falcon_cli.core import Draft
from falcon_cli.native.layer import NativeLinear, PackedLayer
from falcon_cli.native.swap import swap_inside, swap_model
from falcon_cli.target.model import TargetModel

CPU = torch.device("cpu")
KINDS = ("fp32", "bf16", "bf16x2", "int8", "int4")
PROMPT = torch.arange(3, 24)


def native_target(tiny_model, kind, family="llama-gqa", **changes):
    model = tiny_model(family, 4, dtype=torch.float32, **changes)
    return TargetModel(model, native=swap_model(model, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama-gqa", "llama-tied", "mistral", "qwen2", "qwen3"])
def test_a_tree_scores_bit_for_bit_like_its_tokens_one_by_one(tiny_model, random_parents, kind, family):
    target = native_target(tiny_model, kind, family)
    assert target.native.exact
    generator = torch.Generator().manual_seed(len(family))
    for nodes in (2, 7, 13, 40):
        parents = random_parents(nodes, generator)
        draft = Draft.tree(torch.randint(48, (nodes,), generator=generator).tolist(), parents, CPU)
        target.prefill(PROMPT)
        together = target.score(draft)
        for node in {1, nodes // 2, nodes - 1}:
            target.prefill(PROMPT)
            for one in draft.ancestors_TT[node].nonzero().squeeze(-1).tolist():
                alone = target.score(Draft.chain([int(draft.tokens_T[one])], CPU))
                target.commit([0])
                assert torch.equal(alone.logits_TV[0], together.logits_TV[one])
                assert torch.equal(alone.features_TD[0], together.features_TD[one])
                assert alone.choice_T[0] == together.choice_T[one] == together.logits_TV[one].argmax()


@pytest.mark.parametrize(
    ("kind", "near"), [("fp32", 1e-4), ("bf16", 0.1), ("bf16x2", 0.1), ("int8", 0.3), ("int4", 0.5)]
)
def test_the_swapped_model_says_what_the_model_says(tiny_model, kind, near):
    plain = TargetModel(tiny_model("llama-gqa", 4, dtype=torch.float32)).prefill(PROMPT)
    scores = native_target(tiny_model, kind).prefill(PROMPT)
    assert (scores.logits_TV - plain.logits_TV).norm() <= near * plain.logits_TV.norm()
    assert (scores.features_TD - plain.features_TD).norm() <= near * plain.features_TD.norm()


def test_prompts_are_read_alike_in_any_pieces(tiny_model):
    model = tiny_model("llama-gqa", 4, dtype=torch.float32)
    native = swap_model(model, "fp32")
    whole = TargetModel(model, native=native).prefill(PROMPT)
    pieces = TargetModel(model, chunk=4, native=native).prefill(PROMPT)
    assert torch.equal(whole.features_TD, pieces.features_TD)


def test_weights_loaded_in_bf16_are_scored_in_fp32(tiny_model):
    model = tiny_model("llama-gqa", 4, dtype=torch.bfloat16)
    target = TargetModel(model, native=swap_model(model, "bf16"))
    scores = target.prefill(PROMPT)
    assert scores.logits_TV.dtype == scores.features_TD.dtype == torch.float32
    assert torch.isfinite(scores.logits_TV).all()


@pytest.mark.parametrize("family", ["mistral-window", "qwen2-window"])
def test_layers_that_the_kernels_do_not_compute_keep_their_attention(tiny_model, family):
    model = tiny_model(family, 4, dtype=torch.float32)
    plain = TargetModel(tiny_model(family, 4, dtype=torch.float32)).prefill(PROMPT)
    target = TargetModel(model, native=swap_model(model, "fp32"))
    assert not target.native.exact
    assert not any(isinstance(module, PackedLayer) for module in model.modules())
    assert isinstance(model.get_decoder().layers[0].mlp.up_proj, NativeLinear)
    torch.testing.assert_close(target.prefill(PROMPT).logits_TV, plain.logits_TV, rtol=1e-4, atol=1e-4)


def test_other_activations_are_not_taken_for_silu(tiny_model):
    target = native_target(tiny_model, "fp32", hidden_act="gelu")
    plain = TargetModel(tiny_model("llama-gqa", 4, dtype=torch.float32, hidden_act="gelu")).prefill(PROMPT)
    assert not target.native.exact
    torch.testing.assert_close(target.prefill(PROMPT).logits_TV, plain.logits_TV, rtol=1e-4, atol=1e-4)


def test_bytes_are_those_of_the_packed_weights(tiny_model):
    sizes = {kind: native_target(tiny_model, kind).native.weight_bytes for kind in KINDS}
    assert sizes["fp32"] == 2 * sizes["bf16"]
    assert sizes["bf16"] / 2 < sizes["int8"] < sizes["bf16"]  # scales
    assert sizes["int4"] < sizes["int8"]


def test_linear_layers_are_found_wherever_they_are():
    module = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.GLU(), nn.Linear(16, 4)), nn.Linear(12, 8))
    swap_inside(module, "fp32")
    assert isinstance(module[0], NativeLinear)
    assert isinstance(module[1][1], NativeLinear)
    assert type(module[2]) is nn.Linear
