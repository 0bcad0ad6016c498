import pytest
import torch

from falcon_cli.native.quantized import QuantizedEmbedding, QuantizedLinear
from falcon_cli.native.weights import suits, weight_of
from tests.native.file_blocks import FLOATS, SHAPES, random_tensor


@pytest.mark.parametrize("kind", [*SHAPES, *FLOATS])
def test_rows_are_read_as_the_gguf_package_reads_all(kind):
    from gguf import GGMLQuantizationType, dequantize

    tensor = random_tensor(kind, 20, 512)
    whole = torch.from_numpy(dequantize(tensor.blocks_OB.numpy(), GGMLQuantizationType[kind])).float()
    assert (len(tensor), tensor.shape) == (20, (20, 512))
    assert tensor[:].dtype == torch.float32
    assert torch.equal(tensor[:], whole)
    assert torch.equal(tensor[3:7], whole[3:7])
    ids = torch.tensor([[4, 4, 19], [0, 7, 1]])
    assert torch.equal(tensor[ids], whole[ids])


def test_a_layer_and_an_embedding_are_torchs_on_these_numbers():
    tensor, rows = random_tensor("Q4_K", 20, 512), torch.randn(2, 3, 512)
    bias_O, ids = torch.randn(20), torch.tensor([[5, 2]])
    layer = QuantizedLinear(tensor, bias_O)
    assert torch.equal(layer(rows), torch.nn.functional.linear(rows, tensor[:], bias_O))
    assert (layer.in_features, layer.out_features) == (512, 20)
    assert suits(layer)
    assert torch.equal(weight_of(layer), tensor[:])
    embedding = QuantizedEmbedding(tensor)
    assert torch.equal(embedding(ids), tensor[:][ids])
    assert (embedding.num_embeddings, embedding.embedding_dim) == (20, 512)
