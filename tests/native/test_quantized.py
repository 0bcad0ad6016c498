import pytest
import torch
from torch import nn

from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.packed_matrix import product
from falcon_cli.native.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedTensor, device_of, rows_of
from falcon_cli.native.weights import pack, packed, suits
from tests.native.file_blocks import FLOATS, SHAPES, random_tensor


@pytest.mark.parametrize("kind", [*SHAPES, *FLOATS])
def test_rows_are_read_as_the_gguf_package_reads_all(kind, monkeypatch):
    from gguf import GGMLQuantizationType, dequantize

    monkeypatch.setattr("falcon_cli.native.quantized._PORTION", 3 * 512 + 5)
    tensor = random_tensor(kind, 20, 512)
    whole = torch.from_numpy(dequantize(tensor.blocks.numpy(), GGMLQuantizationType[kind])).float()
    assert (len(tensor), tensor.shape) == (20, (20, 512))
    assert tensor[:].dtype == torch.float32
    assert torch.equal(tensor[:], whole)
    assert torch.equal(tensor[3:7], whole[3:7])
    assert tensor[:0].shape == (0, 512)
    ids = torch.tensor([[4, 4, 19], [0, 7, 1]])
    assert torch.equal(tensor[ids], whole[ids])
    with torch.inference_mode():
        assert torch.equal(tensor[:], whole)


@pytest.mark.parametrize("bias", [None, torch.arange(40.0)])
def test_a_layer_in_portions_is_the_whole_one(bias, monkeypatch):
    monkeypatch.setattr("falcon_cli.native.quantized._ROWS", 16)
    tensor, rows = random_tensor("Q8_0", 40, 256), torch.randn(2, 3, 256)
    expected = nn.functional.linear(rows, tensor[:], bias)
    torch.testing.assert_close(QuantizedLinear(tensor, bias)(rows), expected)


def test_a_layer_and_an_embedding_are_torchs_on_these_numbers():
    tensor, rows = random_tensor("Q4_K", 20, 512), torch.randn(2, 3, 512)
    bias_O, ids = torch.randn(20), torch.tensor([[5, 2]])
    layer = QuantizedLinear(tensor, bias_O)
    torch.testing.assert_close(layer(rows), nn.functional.linear(rows, tensor[:], bias_O))
    assert (layer.in_features, layer.out_features) == (512, 20)
    assert suits(layer)
    embedding = QuantizedEmbedding(tensor)
    assert torch.equal(embedding(ids), tensor[:][ids])
    assert (embedding.num_embeddings, embedding.embedding_dim) == (20, 512)


def test_ordinary_layers_have_their_weights():
    plain, embedding = nn.Linear(32, 12), nn.Embedding(12, 32)
    assert rows_of(plain) is plain.weight
    assert rows_of(embedding) is embedding.weight
    assert device_of(plain.weight) == torch.device("cpu")
    assert device_of(torch.empty(2, device="meta")) == torch.device("meta")


def test_layers_in_blocks_have_their_blocks_on_the_kernels_too():
    tensor = random_tensor("Q8_0", 20, 64)
    for kind in (QuantizedEmbedding, QuantizedLinear):
        assert rows_of(kind(tensor)) is tensor
    assert device_of(tensor) == torch.device("cpu")
    assert rows_of(NativeLinear(QuantizedLinear(tensor), "int8", keep=True)) is tensor


@pytest.mark.parametrize("format", ["fp32", "bf16", "int8", "int4"])
def test_a_matrix_of_many_rows_is_packed_by_portions(format, monkeypatch):
    """The numbers of a file's rows are never all there at once, and are those of the whole."""
    tensor, rows = random_tensor("Q4_K", 5000, 256), torch.randn(3, 256)
    whole = pack(tensor[:], format)
    asked, read = [], QuantizedTensor.__getitem__
    monkeypatch.setattr(QuantizedTensor, "__getitem__", lambda self, rows: asked.append(rows) or read(self, rows))
    matrix = packed([QuantizedLinear(tensor)], format)
    assert torch.equal(product(rows, matrix), product(rows, whole))
    assert max(portion.stop - portion.start for portion in asked) < 5000
