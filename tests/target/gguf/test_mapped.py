import gguf
import pytest
import torch

from falcon_cli.native.quantized import QuantizedTensor
from falcon_cli.target.gguf.convert import described
from falcon_cli.target.gguf.mapped import TABLE, MappedFile, finite

KINDS = gguf.GGMLQuantizationType


@pytest.fixture
def matrix():
    """A random matrix in one of GGUF's formats: `matrix(kind, outputs, inputs)`."""

    def made(kind, outputs=40, inputs=256):
        torch.manual_seed(0)
        numbers = torch.randn(outputs, inputs).numpy()
        if kind in (KINDS.Q4_K, KINDS.Q6_K, KINDS.Q2_K, KINDS.Q3_K, KINDS.Q5_K):  # gguf only reads these
            size = gguf.GGML_QUANT_SIZES[kind][1] * inputs // 256
            blocks = torch.randint(60, (outputs, size), dtype=torch.uint8)  # no scale of it is infinite
        else:
            blocks = torch.from_numpy(gguf.quantize(numbers, kind)).view(torch.uint8)
        return QuantizedTensor(kind.name, blocks, (outputs, inputs))

    return made


FORMATS = [
    *(KINDS.F32, KINDS.F16, KINDS.BF16, KINDS.Q4_0, KINDS.Q4_1, KINDS.Q5_0, KINDS.Q5_1, KINDS.Q8_0),
    *(KINDS.Q2_K, KINDS.Q3_K, KINDS.Q4_K, KINDS.Q5_K, KINDS.Q6_K),
]


def exact(matrix):
    numbers = gguf.dequantize(matrix.blocks.numpy(), KINDS[matrix.kind])
    return torch.from_numpy(numbers.astype("float32"))


def _spoiled(matrix, at, bits):
    """Other bits in two bytes of the last row's last block."""
    blocks = matrix.blocks.clone()
    size = gguf.GGML_QUANT_SIZES[KINDS[matrix.kind]][1]
    blocks[-1, blocks.shape[1] - size + at :][:2] = torch.tensor([bits & 255, bits >> 8], dtype=torch.uint8)
    return QuantizedTensor(matrix.kind, blocks, matrix.shape)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_what_is_no_number_is_found_in_every_format(kind, matrix, monkeypatch):
    """Wherever two bytes of a block make the format's own reading infinite or NaN, so does the quick look."""
    monkeypatch.setattr("falcon_cli.target.gguf.mapped._ROWS", 16)
    made = matrix(kind)
    assert finite(made)
    found = 0
    for at in range(0, gguf.GGML_QUANT_SIZES[kind][1] - 1, 2):
        for bits in (0x7C00, 0xFC00, 0x7E00, 0x7F80, 0x7FC0):  # ±infinity and NaN of fp16, infinity and NaN of bf16
            spoiled = _spoiled(made, at, bits)
            read = bool(exact(spoiled).isfinite().all())
            assert finite(spoiled) == read, (at, bits)
            found += not read
    assert found


def test_tensors_lie_where_the_table_says(tiny_model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny_model(dtype=torch.float32), kind=KINDS.F16)
    found = MappedFile(path, described(path) / TABLE)
    assert found.architecture == "llama"
    for tensor in gguf.GGUFReader(path).tensors:
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(found.tensors[tensor.name].numbers(), expected)
        if expected.dim() == 2:
            assert torch.equal(found.tensors[tensor.name].matrix()[:], expected)
            order = torch.arange(len(expected)).flip(0)
            assert torch.equal(found.tensors[tensor.name].matrix(order)[:], expected.flip(0))
