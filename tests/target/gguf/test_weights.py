import json

import gguf
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from falcon_cli.errors import FalconError
from falcon_cli.target.gguf import converted
from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.weights import converted_bytes, narrowest

KINDS = gguf.GGMLQuantizationType


def held(folder):
    return {name: weight for path in folder.glob("*.safetensors") for name, weight in load_file(path).items()}


@pytest.fixture
def model(tiny_model):
    return tiny_model(dtype=torch.float32, intermediate_size=64)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(KINDS.F32, torch.float32), (KINDS.F16, torch.float16), (KINDS.BF16, torch.bfloat16), (KINDS.Q8_0, torch.float32)],
)
def test_halves_stay_halves_and_the_rest_is_exact(kind, expected, model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model, kind=kind)
    found = held(converted(path))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    name = "model.layers.1.self_attn.v_proj.weight"
    assert found[name].dtype == expected
    assert found["model.norm.weight"].dtype == torch.float32
    tensor = tensors["blk.1.attn_v.weight"]
    exact = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
    assert torch.equal(found[name].float(), exact)


def test_quantized_numbers_that_a_half_holds_are_halves():
    halves = torch.tensor([0.5, -3.0, 2.0**-10])
    assert narrowest(halves, "Q4_0").dtype == torch.float16
    assert narrowest(halves * 2**30, "Q4_0").dtype == torch.bfloat16  # too large for fp16
    assert narrowest(torch.tensor([1 + 2.0**-20]), "Q4_0").dtype == torch.float32
    assert narrowest(halves, "F32").dtype == torch.float32
    assert narrowest(torch.tensor([1 + 2.0**-10]), "BF16").dtype == torch.float32  # changed on the way


def test_large_models_are_written_in_several_files(model, write_gguf, loaded, logits_of, tmp_path, monkeypatch):
    monkeypatch.setattr("falcon_cli.target.stored.weight_files.SHARD_BYTES", 20_000)
    path = write_gguf(tmp_path / "m.gguf", model)
    folder = converted(path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in held(folder).values())
    for file in files:
        with safe_open(file, "pt") as opened:
            assert sum(opened.get_tensor(name).nbytes for name in opened.keys()) <= 20_000  # noqa: SIM118
    torch.testing.assert_close(logits_of(loaded(path)), logits_of(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "each"), [(KINDS.F32, 4), (KINDS.Q8_0, 4), (KINDS.F16, 2), (KINDS.BF16, 2)])
def test_the_room_needed_is_never_less_than_what_is_written(kind, each, model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model, kind=kind)
    needed, norms = converted_bytes(GgufFile(path)), 5 * 32 * 4
    matrices = sum(weight.numel() for weight in model.state_dict().values() if weight.dim() > 1)
    assert needed == matrices * each + norms
    assert needed >= sum(weight.nbytes for weight in held(converted(path)).values())


def test_a_tensor_that_the_model_lacks_is_refused(model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model, tensors={"blk.0.attn_q_norm.weight": [1.0] * 8})
    with pytest.raises(FalconError, match=r"tensor blk\.0\.attn_q_norm\.weight: a LlamaForCausalLM has no such weight"):
        converted(path)


def test_a_tensor_of_another_shape_is_refused(model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model, keys={"llama.feed_forward_length": 40})
    with pytest.raises(FalconError, match=r"mlp\.\w+\.weight has the shape \[.*\], but \[.*40.*\] is needed"):
        converted(path)


def test_old_tables_of_angles_are_no_weights(model, write_gguf, loaded, logits_of, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model, tensors={"blk.0.attn_rot_embd.weight": [1.0] * 4})
    torch.testing.assert_close(logits_of(loaded(path)), logits_of(model), rtol=0, atol=1e-4)


def test_a_type_of_numbers_that_gguf_cannot_read_is_one_line(model, write_gguf, tmp_path):
    with pytest.raises(FalconError, match=r"tensor token_embd\.weight: the gguf package cannot read F64 yet"):
        converted(write_gguf(tmp_path / "m.gguf", model.double()))
