import json

import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target
from falcon_cli.target.quantised import stored_form
from falcon_cli.target.quantised.methods import METHODS, method_name
from falcon_cli.target.reference.weights import fingerprint

CPU = torch.device("cpu")
PROMPT = torch.tensor([6, 7, 8, 9, 10])
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "damp_percent": 0.1}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
BY_CHANNEL = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": BY_CHANNEL}},
    "ignore": ["lm_head"],
}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def loaded(folder, **changes):
    return load_target(TargetRecipe(model=str(folder), device="cpu", **changes))


def own_logits(model):
    with torch.inference_mode():
        return model(PROMPT[None]).logits[0, -1:]


def test_a_dequantised_model_bears_no_trace_of_it(fp8_model):
    model = loaded(fp8_model()[0], kernels="torch").model.model
    assert "quanti" not in model.config.to_json_string()
    assert not model.is_quantized
    assert not hasattr(model.config, "_is_quantized")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_fp8_weights_go_on_to_int8_kernels(fp8_model, tiny_model):
    folder, model = fp8_model()
    quantised = loaded(folder, quantize="int8").model.prefill(PROMPT).logits_TV
    model.save_pretrained(folder)  # plain, with the numbers that FP8 stood for
    torch.testing.assert_close(
        quantised, loaded(folder, quantize="int8").model.prefill(PROMPT).logits_TV, rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_mxfp4_experts_are_dequantised_to_the_numbers_that_they_stand_for(mxfp4_model, capsys, dtype):
    folder, model = mxfp4_model
    target = loaded(folder, dtype=dtype, kernels="torch")
    for layer, held in zip(model.model.layers, target.model.decoder.layers, strict=True):
        assert torch.equal(held.mlp.experts.gate_up_proj.float(), layer.mlp.experts.gate_up_proj)
        assert torch.equal(held.mlp.experts.down_proj.float(), layer.mlp.experts.down_proj)
    if dtype == "fp32":
        torch.testing.assert_close(target.model.prefill(PROMPT).logits_TV, own_logits(model), rtol=0, atol=1e-3)
    said = capsys.readouterr().err
    assert f"its MXFP4 weights are dequantised to {dtype}" in said
    assert "MXFP4 inference" not in said  # as transformers would have it


def test_weights_that_cannot_be_dequantised_run_as_they_are_on_torchs_operators(bitnet_model, capsys):
    from transformers import AutoModelForCausalLM

    target = loaded(bitnet_model)
    own = AutoModelForCausalLM.from_pretrained(bitnet_model, dtype=torch.float32)
    torch.testing.assert_close(target.model.prefill(PROMPT).logits_TV, own_logits(own), rtol=0, atol=1e-3)
    assert target.model.native is None
    assert f"{bitnet_model}: its BitNet weights run as they are, on torch's own" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_bitsandbytes_weights_run_as_they_are_or_become_plain_for_kernels(saved_model, tmp_path, capsys, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    folder = tmp_path / "in bits"
    AutoTokenizer.from_pretrained(saved_model).save_pretrained(folder)
    own = AutoModelForCausalLM.from_pretrained(saved_model, quantization_config=BitsAndBytesConfig(**bits))
    own.save_pretrained(folder)
    as_it_is = loaded(folder, kernels="torch").model
    torch.testing.assert_close(as_it_is.prefill(PROMPT).logits_TV, own_logits(own), rtol=0, atol=1e-3)
    assert "dequantised" not in capsys.readouterr().err
    plain = loaded(folder).model
    expected = own_logits(own.dequantize(dtype=torch.float32))
    torch.testing.assert_close(plain.prefill(PROMPT).logits_TV, expected, rtol=0, atol=1e-3)
    assert plain.native is not None
    assert not hasattr(plain.model.config, "_is_quantized")
    assert "its bitsandbytes weights are dequantised to fp32" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [{"quantize": "int8"}, {"kernels": "native"}])
def test_kernels_for_weights_that_cannot_be_dequantised_are_one_line(bitnet_model, asked):
    with pytest.raises(FalconError, match="cannot dequantise BitNet weights for native kernels; leave out --quantize"):
        loaded(bitnet_model, **asked)


def test_a_fingerprint_tells_weights_that_are_kept_in_buffers(bitnet_model):
    from safetensors.torch import load_file, save_file

    before = fingerprint(loaded(bitnet_model).model.model)
    assert fingerprint(loaded(bitnet_model).model.model) == before
    path = bitnet_model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] ^= 1
    save_file(tensors, path, {"format": "pt"})
    assert fingerprint(loaded(bitnet_model).model.model) != before


@pytest.mark.parametrize(
    ("told", "label", "packages"),
    [
        (GPTQ, "GPTQ", "optimum gptqmodel"),
        (AWQ, "AWQ", "gptqmodel"),
        (COMPRESSED, "compressed-tensors", "compressed-tensors"),
        (BITSANDBYTES, "bitsandbytes", "bitsandbytes"),
        ({"load_in_8bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes", "bitsandbytes"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao", "torchao"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto", "optimum-quanto"),
        ({"quant_method": "hqq", "quant_config": {}}, "HQQ", "hqq"),
    ],
    ids=lambda told: told.get("quant_method") if isinstance(told, dict) else None,
)
def test_one_line_says_which_packages_read_it(written_note, told, label, packages):
    if len(METHODS[method_name(told)].missing()) < len(packages.split()):
        pytest.skip("installed here")
    folder = written_note(**told)
    with pytest.raises(FalconError) as error:
        loaded(folder)
    assert str(error.value) == (
        f"{folder}: its weights are {label}-quantised; install {packages} (pip install {packages}) to read them, or "
        "give the unquantised checkpoint"
    )


@pytest.mark.parametrize("told", [{"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"bits": 4}])
def test_a_way_of_quantising_that_transformers_does_not_know_is_one_line(written_note, told):
    folder = written_note(**told)
    with pytest.raises(FalconError, match="which transformers cannot read; give the unquantised") as error:
        loaded(folder)
    assert str(error.value).startswith(f"{folder}: its weights are quantised")
    assert told.get("quant_method", "not name") in str(error.value)


def test_what_the_machine_lacks_is_one_line_before_any_weight_is_read(written_note):
    folder = written_note(quant_method="nvfp4")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FalconError, match="its nvfp4 weights cannot be read on this machine") as error:
        loaded(folder)
    assert "\n" not in str(error.value)


def test_scales_that_belong_to_no_weight_are_one_line(fp8_model):
    from safetensors.torch import load_file, save_file

    path = fp8_model()[0] / "model.safetensors"
    tensors = {name.replace("weight_scale_inv", "weight_scale_other"): each for name, each in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(FalconError, match="scales belong to no weight, such as model"):
        loaded(path.parent)


def test_the_note_of_a_text_part_counts(saved_model):
    path = saved_model / "config.json"
    plain = json.loads(path.read_text())
    assert stored_form("it", str(saved_model), {}, CPU, False).method is None
    path.write_text(json.dumps({"model_type": "llava", "text_config": {**plain, "quantization_config": GPTQ}}))
    with pytest.raises(FalconError, match="GPTQ-quantised"):
        stored_form("it", str(saved_model), {}, CPU, False)
