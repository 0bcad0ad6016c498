"""A LoRA adapter is merged into the target before anything else happens."""

import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.adapter import with_adapter
from falcon_cli.target.load import load_target

PROMPT_L = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture
def adapted(tiny_model, tmp_path):
    """Make and save an adapter of random weights; returns peft's model of it and its folder."""
    from peft import LoraConfig, get_peft_model

    def build(**changes):
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = get_peft_model(tiny_model(dtype=torch.float32, **changes), config).eval()
        model.save_pretrained(tmp_path / "adapter")
        return model, tmp_path / "adapter"

    return build


def logits(model):
    with torch.inference_mode():
        return model(PROMPT_L[None]).logits[0, -1:]


def test_the_merged_target_says_what_the_adapted_model_says(adapted, saved_model):
    model, folder = adapted()
    target = load_target(TargetRecipe(model=str(saved_model), device="cpu", adapter=str(folder)))
    torch.testing.assert_close(target.model.prefill(PROMPT_L).logits_TV, logits(model), rtol=1e-4, atol=1e-4)  # fp32
    plain = load_target(TargetRecipe(model=str(saved_model), device="cpu"))
    assert not torch.allclose(plain.model.prefill(PROMPT_L).logits_TV, logits(model), atol=0.01)


def test_nothing_of_peft_is_left_in_it(adapted, tiny_model):
    _, folder = adapted()
    merged = with_adapter(tiny_model(dtype=torch.float32), str(folder))
    assert type(merged) is type(tiny_model())
    assert merged.state_dict().keys() == tiny_model().state_dict().keys()


def test_an_adapter_of_another_model_is_one_line(adapted, tiny_model):
    _, folder = adapted(hidden_size=16)
    with pytest.raises(FalconError, match=r"adapter .* does not fit this target") as caught:
        with_adapter(tiny_model(), str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("adapter_config.json", None), ("adapter_config.json", "{not json")])
def test_a_broken_adapter_is_one_line(adapted, tiny_model, name, content):
    _, folder = adapted()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(FalconError, match=f"adapter {folder} does not fit this target") as caught:
        with_adapter(tiny_model(), str(folder))
    assert "\n" not in str(caught.value)


def test_cut_weights_are_one_line(adapted, tiny_model):
    _, folder = adapted()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(FalconError, match="does not fit this target") as caught:
        with_adapter(tiny_model(), str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", [1, 3])
def test_an_adapter_with_fewer_or_more_layers_is_refused(adapted, tiny_model, layers):
    """peft would leave the others as they are and only warn, or not even that."""
    _, folder = adapted(num_hidden_layers=layers)
    with pytest.raises(FalconError, match=r"\(6 weights are of layers that only one of them has, such as base_model"):
        with_adapter(tiny_model(), str(folder))


def test_an_adapter_that_is_not_there_is_one_line(tiny_model, tmp_path):
    with pytest.raises(FalconError, match=r"adapter .*none does not fit this target") as caught:
        with_adapter(tiny_model(), str(tmp_path / "none"))
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_weights_are_no_numbers_is_found(adapted, saved_model):
    from safetensors.torch import load_file, save_file

    _, folder = adapted()
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    next(tensor for name, tensor in weights.items() if "layers.1.mlp.up_proj" in name)[0, 0] = float("nan")
    save_file(weights, path)
    with pytest.raises(FalconError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN or infinity"):
        load_target(TargetRecipe(model=str(saved_model), device="cpu", adapter=str(folder)))
