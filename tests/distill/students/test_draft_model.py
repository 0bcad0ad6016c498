"""A draft model of the target's layers: how it starts, what it learns, how it is saved."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.distill.features.batches import collate
from falcon_cli.distill.students.draft_model import shortened
from falcon_cli.drafters.rivals.sps import SpeculativeSampling
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import DraftModelRecipe
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.load import load_target
from falcon_cli.target.outline import layer_list
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree

CHAIN = StoredTree(1, TreeShape.chain(1), {})


@pytest.fixture
def setup(training_setup):
    return training_setup(method="sps", draft_model=DraftModelRecipe(layers=(0,)))


def test_the_layers_are_the_target_s(tiny_model):
    model = tiny_model("qwen3", num_hidden_layers=4)
    short = shortened(model, (0, -1, 2))
    layers, chosen = model.get_decoder().layers, short.get_decoder().layers
    assert len(chosen) == short.config.num_hidden_layers == 3
    for copy, layer in zip(chosen, (layers[0], layers[3], layers[2]), strict=True):
        assert all(torch.equal(copy.state_dict()[name], value) for name, value in layer.state_dict().items())
    assert [layer.self_attn.layer_idx for layer in chosen] == [0, 1, 2]
    assert torch.equal(short.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert len(model.get_decoder().layers) == 4


def test_all_layers_are_the_target_itself(training_setup):
    setup = training_setup(method="sps", draft_model=DraftModelRecipe(layers=(0, 1)))
    ranks = setup.student.ranks(setup.features.texts)
    assert ranks.shape == (sum(setup.student.loss_positions(sample.answer) for sample in setup.samples), 1)
    assert ranks.eq(0).all()


def test_a_layer_that_is_not_there_is_refused(training_setup):
    with pytest.raises(FalconError, match=r"draft_model\.layers: the target has 2 layers, there is no 7"):
        training_setup(method="sps", draft_model=DraftModelRecipe(layers=(0, 7)))


def test_position_j_reads_token_j_and_learns_the_next(setup):
    texts = setup.features.fetch([1])
    batch = collate([1], texts, torch.device("cpu"), torch.float32)
    outcome = setup.student.loss(setup.student.network, batch, 0, glance=0.0)
    (text,), weights = texts, setup.student.weights
    predicted_LD = setup.student.network(text.tokens_L[None].long())[0]
    places = [p for p in range(len(text.tokens_L) - 1) if text.answer_L[p + 1]]
    right = [int((weights.head_WD @ predicted_LD[p]).argmax()) == int(text.top_ids_LZ[p, 0]) for p in places]
    assert outcome.losses.right_M.tolist() == right
    assert outcome.slot_M.tolist() == [1] * len(places)
    assert len(places) == setup.student.loss_positions(setup.samples[1].answer)


def test_it_learns_and_leaves_embedding_and_head_alone(setup):
    before = setup.target.model.head.weight.clone()
    losses = setup.trained(10)
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(setup.student.network.causal.get_output_embeddings().weight, before)
    assert torch.equal(setup.target.model.head.weight, before)


def test_what_is_written_is_an_ordinary_model_and_drafts(setup, chat_target, tmp_path):
    setup.trained(3)
    assert setup.student.saved_as == "draft-model"
    setup.student.save(tmp_path / "small", setup.target, {"steps": 3}, CHAIN)
    loaded = load_target(TargetRecipe(str(tmp_path / "small"), kernels="torch"))
    assert loaded.model.model.config.num_hidden_layers == 1
    drafter = setup.student.as_drafter(setup.target, CHAIN.shape)
    assert isinstance(drafter, SpeculativeSampling)
    target, prompt = setup.target.model, [5, 6, 7]
    ids = complete(target, drafter, prompt, Stop((), 12)).ids
    assert ids == complete(target, SpeculativeSampling(loaded.model, 48, drafter.options), prompt, Stop((), 12)).ids
    assert setup.student.usage(tmp_path) == f"--method sps --draft-model {tmp_path}"
    assert "Layers [0] of the target" in (tmp_path / "small" / "README.md").read_text()


@pytest.mark.parametrize("family", ["gpt2", "bloom", "opt", "mixtral", "gemma3_text", "gpt_neo"])
def test_layers_are_cut_whatever_their_class_calls_them(family):
    model = made_twin(built(family))[0]
    short = shortened(model, (-1,))
    assert len(layer_list(short)) == short.config.num_hidden_layers == 1
    wanted = layer_list(model)[-1].state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in layer_list(short)[0].state_dict().items())
    assert short(torch.arange(5)[None]).logits.isfinite().all()


def test_a_layer_that_would_become_another_is_refused():
    """DeepSeek's first layer has one MLP, the later ones have experts."""
    model = made_twin(built("deepseek_v3"))[0]
    assert len(layer_list(shortened(model, (0,)))) == 1
    refused = r"layers \[1\] cannot be cut from a DeepseekV3ForCausalLM \(its class makes another layer of it: .*: name"
    with pytest.raises(FalconError, match=refused):
        shortened(model, (1,))
