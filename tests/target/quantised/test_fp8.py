import json

import pytest
import torch

from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target
from falcon_cli.target.quantised.fp8 import whole_blocks

PROMPT = torch.tensor([6, 7, 8, 9, 10])


def loaded(folder, **changes):
    return load_target(TargetRecipe(model=str(folder), device="cpu", **changes))


def own_logits(model):
    with torch.inference_mode():
        return model(PROMPT[None]).logits[0, -1:]


@pytest.mark.parametrize("kernels", ["torch", "auto"])
@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("layout", ["deepseek", "vllm", "fbgemm"])
def test_fp8_weights_are_dequantised_to_the_numbers_that_they_stand_for(fp8_model, capsys, layout, uneven, kernels):
    folder, model = fp8_model(layout, uneven)
    target = loaded(folder, kernels=kernels)
    torch.testing.assert_close(target.model.prefill(PROMPT).logits_TV, own_logits(model), rtol=0, atol=1e-3)
    assert (target.model.native is None) == (kernels == "torch")
    said = capsys.readouterr().err
    assert f"{folder}: its {'FBGEMM ' * (layout == 'fbgemm')}FP8 weights are dequantised to fp32" in said


def test_a_cut_block_is_filled_up_and_a_whole_one_left_alone():
    weight = torch.arange(1.0, 13.0).reshape(3, 4).to(torch.float8_e4m3fn)
    filled = whole_blocks(weight, (2, 1), (2, 4))
    assert torch.equal(filled, torch.cat([weight.float(), torch.zeros(1, 4)]))
    assert whole_blocks(weight, (3, 2), (1, 2)) is weight
    assert whole_blocks(weight, (3, 1), (2, 4)) is weight  # a scale for each output, whatever the block


@pytest.mark.parametrize("scales", [torch.uint8, torch.float8_e8m0fnu])
def test_scales_may_be_exponents(saved_model, scales):
    """As those of MXFP8 are; transformers reads them."""
    from safetensors.torch import load_file, save_file

    path, name = saved_model / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(path)
    weight = tensors[name].to(torch.float8_e4m3fn)
    exponents = torch.randint(124, 130, (48, 1), dtype=torch.uint8)
    tensors |= {name: weight, f"{name}_scale_inv": exponents.view(scales)}
    save_file(tensors, path, {"format": "pt"})
    config = saved_model / "config.json"
    note = {"quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": note}))
    held = loaded(saved_model, kernels="torch").model.model.get_parameter(name)
    assert torch.equal(held, weight.float() * torch.exp2(exponents.float() - 127))
