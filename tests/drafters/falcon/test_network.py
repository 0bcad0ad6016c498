import pytest
import torch

from falcon_cli.drafters.falcon.blocks import Blocks
from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.recipe.distill import NetworkRecipe
from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel
from falcon_cli.target.outline import TargetOutline

MIXERS = ("time", "position", "linear")
LENGTH, HIDDEN = 9, 32


@pytest.fixture
def outline(decoder):
    return TargetOutline.of_decoder(decoder)


@pytest.fixture(scope="module")
def decoder(tiny_model):
    return tiny_model("llama-gqa", 2).get_decoder()


@pytest.fixture(scope="module")
def inputs():
    """Embeddings and features [1, L, D]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, LENGTH, HIDDEN, generator=generator, dtype=torch.float64)


def mask(k, phase=0):
    return Blocks.of_texts(torch.tensor([LENGTH]), LENGTH, k, phase)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("normalise", [True, False])
def test_an_output_depends_on_its_block_and_all_before_and_on_nothing_after(
    tiny_network, decoder, inputs, mixer, normalise
):
    network = tiny_network(decoder, k=3, mixer=mixer, normalise=normalise)
    before_LD = network(*inputs, mask(3), inputs[0])[0]
    for place in range(LENGTH):
        changed = inputs.clone()
        changed[:, :, place] += 1
        moved_L = (network(*changed, mask(3), inputs[0])[0] - before_LD).abs().amax(-1) > 1e-9
        assert moved_L.tolist() == [other // 3 >= place // 3 for other in range(LENGTH)]


def test_initialised_from_the_target_it_passes_true_features_through(decoder, outline):
    """Features are of unit size times the final norm's weight; so is the output, from the start."""
    network = DrafterNetwork(NetworkRecipe(k=2, mixer="linear"), outline)
    network.initialise(outline, torch.Generator().manual_seed(0))
    network = network.double()
    with torch.no_grad():
        features_BLD = decoder(torch.arange(LENGTH)[None]).last_hidden_state
        noise_BLD = torch.randn_like(features_BLD)
        out_BLD = network(noise_BLD, features_BLD, mask(2), noise_BLD)
    newest_BLD = features_BLD[:, mask(2).last_BL[0]]  # of each position's block
    likeness = torch.nn.functional.cosine_similarity(out_BLD, newest_BLD, dim=-1)
    assert likeness.min() > 0.9
    torch.testing.assert_close(out_BLD.std(), features_BLD.std(), rtol=0.2, atol=0)


def test_the_same_generator_gives_the_same_weights(tiny_network, decoder):
    first, again, other = (tiny_network(decoder, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mixer.weight_hh_l0"], other["mixer.weight_hh_l0"])


@pytest.mark.parametrize("normalise", [True, False])
def test_raw_has_neither_norm_nor_scale(tiny_network, decoder, normalise):
    names = tiny_network(decoder, normalise=normalise).state_dict().keys()
    assert ({"norm_D", "scale_D"} <= names) == normalise
    assert any(name.startswith("layer.self_attn") for name in names)
    assert not any("rotary" in name or "embed" in name for name in names)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_time_goes_on_from_a_state_as_if_it_had_read_all(tiny_network, decoder, inputs, cut):
    network = tiny_network(decoder, mixer="time")
    whole = network.mix(*inputs)
    first = network.mix(*inputs[:, :, :cut])
    second = network.mix(*inputs[:, :, cut:], first.state)
    torch.testing.assert_close(torch.cat([first.hidden_BLD, second.hidden_BLD], 1), whole.hidden_BLD)
    for ours, theirs in zip(second.state, whole.state, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_position_is_the_lstm_on_one_position_at_a_time(tiny_network, decoder, inputs):
    network, in_time = (tiny_network(decoder, mixer=mixer) for mixer in ("position", "time"))
    in_time.load_state_dict(network.state_dict())
    mixed = network.mix(*inputs)
    assert mixed.state is None
    for place in range(LENGTH):
        alone = in_time.mix(*inputs[:, :, place : place + 1])
        torch.testing.assert_close(mixed.hidden_BLD[:, place : place + 1], alone.hidden_BLD)


@pytest.mark.parametrize("k", [2, 3])
def test_keys_and_values_do_not_depend_on_the_phase(tiny_network, decoder, inputs, k):
    """What the drafter's cache rests on: blocks may begin anywhere without anything being read again."""
    network = tiny_network(decoder, k=k)
    attention = network.layer.self_attn
    seen = []
    hooks = [
        part.register_forward_hook(lambda *call: seen.append(call[2])) for part in (attention.k_proj, attention.v_proj)
    ]
    for phase in range(k):
        network(*inputs, mask(k, phase), inputs[0])
    for hook in hooks:
        hook.remove()
    for key, value in zip(seen[2::2], seen[3::2], strict=True):
        assert torch.equal(key, seen[0])
        assert torch.equal(value, seen[1])


def test_a_targets_sliding_window_is_left_out(tiny_network, tiny_model, inputs):
    plain = tiny_network(tiny_model("mistral", 4).get_decoder(), k=2)
    windowed = tiny_network(tiny_model("mistral-window", 4).get_decoder(), k=2)
    assert torch.equal(plain(*inputs, mask(2), inputs[0]), windowed(*inputs, mask(2), inputs[0]))
    assert tiny_model("mistral-window").config.sliding_window == 7


def test_chained_slots_read_the_token_before_theirs_and_first_slots_do_not(outline, inputs):
    network = DrafterNetwork(NetworkRecipe(k=2, mixer="linear"), outline)
    network.initialise(outline, torch.Generator().manual_seed(0))
    for parameter in network.chain.parameters():
        parameter.data += 0.3
    network = network.double()
    with torch.no_grad():
        one, other = (network(*inputs, mask(2), before_BLD) for before_BLD in (inputs[0], inputs[1]))
    moved_L = (one - other)[0].abs().amax(-1) > 1e-9
    assert moved_L.tolist() == [False, True] * 4 + [True]  # the last block is cut short: its one position ends it


@pytest.mark.parametrize(("form", "moved"), [({"start": "own"}, False), ({"start": "block"}, True)])
def test_outputs_start_from_the_newest_input_of_their_block(decoder, outline, inputs, form, moved):
    """With the layer silenced, an output is what it starts from."""
    network = DrafterNetwork(NetworkRecipe(k=2, mixer="linear", chained=False, **form), outline)
    network.initialise(outline, torch.Generator().manual_seed(0))
    network.layer.copy(decoder.layers[-1], 0.0)
    network = network.double()
    changed = inputs.clone()
    changed[1, 0, 5] += 1.0  # the feature at the end of the block 4, 5
    with torch.no_grad():
        before, after = (network(*each, mask(2), each[0]) for each in (inputs, changed))
    assert bool(((before - after)[0, 4].abs() > 1e-9).any()) == moved


def test_wanted_outputs_are_those_of_the_whole(decoder, inputs, tiny_network):
    network = tiny_network(decoder, k=3)
    wanted_BL = torch.arange(LENGTH)[None] % 2 == 0
    whole = network(*inputs, mask(3), inputs[1])
    torch.testing.assert_close(network(*inputs, mask(3), inputs[1], wanted_BL), whole[wanted_BL])


@pytest.mark.parametrize("family", ["gemma2", "olmo", "phi", "gpt2"])
def test_of_any_target_it_passes_true_features_through(family):
    """The final norm is undone by what it does, and done again: 1 + weight, no weight, a weight and a bias."""
    target = TargetModel(made_twin(built(family))[0].float())
    network = DrafterNetwork(NetworkRecipe(k=1, mixer="linear", chained=False), target.outline)
    network.initialise(target.outline, torch.Generator().manual_seed(0))
    for silent in (network.mixer, network.own, network.layer.self_attn.o_proj, network.layer.mlp.down_proj):
        torch.nn.init.zeros_(silent.weight)
    features_BLD = target.prefill(torch.tensor([5, 9, 40, 41])).features_TD[None]
    blocks = Blocks.of_texts(torch.tensor([4]), 4, 1)
    with torch.no_grad():
        out_BLD = network(torch.randn_like(features_BLD), features_BLD, blocks, torch.randn_like(features_BLD))
    torch.testing.assert_close(out_BLD, features_BLD, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("family", "divided_by"), [("gemma", lambda norm: 1 + norm.weight), ("olmo", lambda norm: 1.0)]
)
def test_features_are_divided_by_what_the_norm_multiplies_by(family, divided_by):
    twin = made_twin(built(family))[0].float()
    target = TargetModel(twin)
    network = DrafterNetwork(NetworkRecipe(k=1), target.outline)
    network.initialise(target.outline, torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.scale_D, divided_by(twin.model.norm) * torch.ones(32))


def test_gradients_are_the_same_whatever_the_threads():
    """Many rows share a slot's vector: threads must not add up its gradient in the order in which they come."""
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    decoder = LlamaModel(LlamaConfig(vocab_size=8, num_hidden_layers=1, **sizes))
    network = DrafterNetwork(NetworkRecipe(k=2, mixer="linear"), TargetOutline.of_decoder(decoder))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 16
    inputs_BLD = torch.randn(3, 4, 256, 256, generator=generator)
    blocks = Blocks.of_texts(torch.full((4,), 256), 256, 2, 0)

    def gradients(threads):
        torch.set_num_threads(threads)
        network.zero_grad()
        network(inputs_BLD[0], inputs_BLD[1], blocks, inputs_BLD[2]).square().sum().backward()
        return [parameter.grad.clone() for parameter in network.parameters()]

    before = torch.get_num_threads()
    try:
        alone = gradients(1)
        for _ in range(4):
            assert all(map(torch.equal, gradients(2), alone))
    finally:
        torch.set_num_threads(before)
