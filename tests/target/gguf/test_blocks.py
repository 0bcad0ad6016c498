"""A file whose weights stay in their blocks: the same model, bit for bit, as the converted one."""

import gguf
import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.native.build import NoKernelsError
from falcon_cli.native.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedTensor
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.gguf import BlockFile, NoBlocksError
from falcon_cli.target.load import load_target
from falcon_cli.target.reference.ask import TOKENS
from falcon_cli.target.reference.hold import hold, told

KINDS = gguf.GGMLQuantizationType


@pytest.fixture
def model(tiny_model):
    return lambda family="llama-gqa", **changes: tiny_model(
        family, dtype=torch.float32, intermediate_size=64, **changes
    )


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.F16, KINDS.BF16, KINDS.Q8_0, KINDS.Q4_0, KINDS.Q5_1], ids=str)
@pytest.mark.parametrize("family", ["llama-gqa", "llama-tied", "qwen2", "qwen3", "mistral"])
def test_a_model_in_blocks_is_the_converted_one(family, kind, model, write_gguf, loaded, logits_of, tmp_path):
    architecture = family.partition("-")[0]
    path = write_gguf(tmp_path / "m.gguf", model(family), architecture, kind=kind)
    found = BlockFile(path).model()
    assert torch.equal(logits_of(found), logits_of(loaded(path)))
    kinds = {type(module) for module in found.modules()}
    assert torch.nn.Linear not in kinds
    assert torch.nn.Embedding not in kinds
    assert all(parameter.dim() == 1 for parameter in found.parameters())
    assert found.generation_config.eos_token_id == [1]


def test_matrices_are_the_files_own_bytes(model, write_gguf, tmp_path):
    """Only rows that llama.cpp moved are copied, to be moved back."""
    file = BlockFile(write_gguf(tmp_path / "m.gguf", model(), kind=KINDS.Q8_0))
    models = [file.model(), file.model()]
    pairs = list(zip(*[list(one.named_modules()) for one in models], strict=True))
    shared = {
        name: own.tensor.blocks.data_ptr() == other.tensor.blocks.data_ptr()
        for (name, own), (_, other) in pairs
        if isinstance(own, QuantizedLinear | QuantizedEmbedding)
    }
    assert len(shared) == 2 * 7 + 2
    assert all(shared.values())
    begin = file._file.tensors["blk.1.attn_v.weight"].bytes.data_ptr()
    assert models[0].model.layers[1].self_attn.v_proj.tensor.blocks.data_ptr() == begin


def test_a_tied_head_is_the_embedding(model, write_gguf, tmp_path):
    found = BlockFile(write_gguf(tmp_path / "m.gguf", model("llama-tied"))).model()
    assert found.lm_head.tensor is found.model.embed_tokens.tensor


def test_models_of_one_file_do_not_change_one_another(model, write_gguf, tmp_path):
    file = BlockFile(write_gguf(tmp_path / "m.gguf", model()))
    file.model().set_attn_implementation("eager")
    assert file.model().config._attn_implementation == "sdpa"


def test_what_was_read_may_be_let_go(model, write_gguf, logits_of, tmp_path):
    file = BlockFile(write_gguf(tmp_path / "m.gguf", model(), kind=KINDS.Q8_0))
    before = logits_of(file.model())
    file.release()
    assert torch.equal(logits_of(file.model()), before)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (
            {"without": {"blk.1.ffn_up.weight"}},
            r"m\.gguf: 1 weights are missing, such as model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        (
            {"tensors": {"blk.0.attn_q_norm.weight": [1.0] * 8}},
            r"m\.gguf: tensor blk\.0\.attn_q_norm\.weight: a LlamaForCausalLM has no such weight",
        ),
        (
            {"keys": {"llama.feed_forward_length": 40}},
            r"m\.gguf: model\.\S+ has the shape \[.*\], but \[.*40.*\] is needed",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_refused(options, refusal, model, write_gguf, tmp_path):
    with pytest.raises(FalconError, match=refusal) as error:
        BlockFile(write_gguf(tmp_path / "m.gguf", model(), **options))
    assert not isinstance(error.value, NoBlocksError)


def test_a_type_of_numbers_that_gguf_cannot_read_is_one_line(model, write_gguf, tmp_path):
    with pytest.raises(FalconError, match=r"tensor token_embd\.weight: the gguf package cannot read F64 yet"):
        BlockFile(write_gguf(tmp_path / "m.gguf", model().double()))


def test_a_network_that_only_transformers_knows_has_no_blocks(write_gguf, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=64, n_inner=64))
    sizes = {"context_length": 64, "embedding_length": 16, "block_count": 2, "feed_forward_length": 64}
    rest = {"attention.head_count": 2, "attention.layer_norm_epsilon": 1e-5}
    keys = {f"gpt2.{name}": value for name, value in {**sizes, **rest}.items()}
    path = write_gguf(tmp_path / "m.gguf", small, "gpt2", keys)
    for _ in range(2):
        with pytest.raises(NoBlocksError, match=r"no description of gpt2\): use --quantize int8"):
            BlockFile(path)


@pytest.mark.parametrize(
    "change", [lambda weights: weights - 1, lambda weights: weights.T, lambda weights: 2 * weights]
)
def test_a_change_that_moves_no_rows_cannot_be_undone_on_blocks(change, model, write_gguf, tmp_path, monkeypatch):
    from transformers.modeling_gguf_pytorch_utils import GGUFTensor, LlamaTensorProcessor

    def process(self, weights, name, **options):
        return GGUFTensor(change(weights) if name == "blk.1.attn_v.weight" else weights, name, {})

    monkeypatch.setattr(LlamaTensorProcessor, "process", process)
    with pytest.raises(NoBlocksError, match=r"blk\.1\.attn_v\.weight is stored in another form"):
        BlockFile(write_gguf(tmp_path / "m.gguf", model()))


def test_inputs_that_the_kernels_do_not_take_are_left_to_the_conversion(model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model(hidden_size=36, head_dim=8))
    with pytest.raises(NoBlocksError, match=r"_proj\.weight is a weight of a Linear"):
        BlockFile(path).model()


class TestOfATarget:
    """Through `load_target`."""

    @pytest.fixture
    def path(self, model, write_gguf, tmp_path):
        return write_gguf(tmp_path / "m.gguf", model("llama-tied"), kind=KINDS.Q8_0)

    def load(self, path, prompt_of=None, **changes):
        return load_target(TargetRecipe(str(path), device="cpu", **changes), prompt_of)

    def folders(self, tmp_path):
        return sorted(folder.name[-9:] for folder in (tmp_path / "home" / "models").iterdir() if folder.is_dir())

    @pytest.mark.parametrize("quantize", ["file", "int8", "int4", "bf16"])
    def test_rounded_weights_come_without_a_conversion(self, path, quantize, tmp_path):
        target = self.load(path, quantize=quantize)
        assert target.model.native.kind == quantize
        assert target.model.native.exact
        assert self.folders(tmp_path) == ["described"]
        model = target.model
        assert (model.vocab_size, model.hidden_size, model.embedding_rows, model.dtype) == (48, 32, 48, torch.float32)
        assert isinstance(model.embedding_VD, QuantizedTensor)
        assert model.embedding_VD is model.head.weight
        assert target.stop_ids == {1}

    @pytest.mark.parametrize("changes", [{}, {"kernels": "torch"}, {"quantize": "int8", "dtype": "bf16"}])
    def test_full_precision_comes_by_conversion(self, path, changes, tmp_path):
        assert isinstance(self.load(path, **changes).model.embedding_VD, torch.Tensor)
        assert [name.endswith("-v2") for name in self.folders(tmp_path)] == [True]

    def test_a_target_without_blocks_is_refused_by_name(self, tiny_model, tmp_path):
        tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "plain")
        with pytest.raises(UsageError, match=r"^--quantize file: .*plain is no GGUF file: use int8 or int4$"):
            self.load(tmp_path / "plain", quantize="file")

    @pytest.mark.parametrize(
        ("changes", "option"), [({"adapter": "somewhere"}, "--adapter"), ({"dtype": "bf16"}, "--dtype bf16")]
    )
    def test_blocks_are_taken_as_they_are_or_not_at_all(self, path, changes, option):
        refusal = f"^--quantize file takes the weights as they are: leave out {option}, or use int8$"
        with pytest.raises(UsageError, match=refusal):
            self.load(path, quantize="file", **changes)

    def test_an_adapter_is_merged_into_the_converted_file(self, path, monkeypatch):
        monkeypatch.setattr("falcon_cli.target.load.with_adapter", lambda model, adapter: model)
        target = self.load(path, quantize="int8", adapter="somewhere")
        assert isinstance(target.model.embedding_VD, torch.Tensor)

    def test_other_networks_are_converted_where_they_may_be(self, path, monkeypatch):
        def refuse(path):
            raise NoBlocksError("it has experts: use --quantize int8")

        monkeypatch.setattr("falcon_cli.target.load.BlockFile", refuse)
        assert self.load(path, quantize="int8").model.native.kind == "int8"
        with pytest.raises(NoBlocksError, match="it has experts: use --quantize int8"):
            self.load(path, quantize="file")

    @pytest.mark.parametrize("tensor", ["blk.1.ffn_down.weight", "token_embd.weight", "output_norm.weight"])
    def test_weights_that_are_no_numbers_are_found_and_named(self, tensor, model, write_gguf, tmp_path):
        spoiled = model("llama-tied")
        names = {
            "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
        }
        spoiled.get_parameter(names[tensor]).data.view(-1)[3] = float("inf")
        path = write_gguf(tmp_path / "m.gguf", spoiled, kind=KINDS.F16)
        with pytest.raises(FalconError, match=f"{names[tensor]} holds NaN or infinity instead of numbers; try another"):
            self.load(path, quantize="int8")

    def test_the_certificate_is_one_forward_of_the_class_itself(self, path, loaded, capsys, monkeypatch):
        target = self.load(path, lambda tokenizer: [5, 9, 2], quantize="int8")
        ids = complete(target.model, Autoregressive(target.model.device), [5, 9, 2], Stop((), 40)).ids
        with torch.inference_mode():
            own = loaded(path)(torch.tensor([[5, 9, 2, *ids]])).logits[0, 2:-1].argmax(-1).tolist()
        entry = hold(target, ids, "81")
        assert entry["tokens"] == TOKENS
        assert entry["agreement"] == sum(a == b for a, b in zip(own[:TOKENS], ids[:TOKENS], strict=True)) / TOKENS
        assert entry["verdict"] is None
        assert "by transformers' own forward" in capsys.readouterr().err
        monkeypatch.setattr("falcon_cli.target.gguf.blocks.BlockFile.model", None)
        assert hold(target, ids, "81") == entry  # kept
        assert capsys.readouterr().err == ""

    def test_a_prompt_that_does_not_fit_has_no_certificate(self, path):
        target = self.load(path, lambda tokenizer: [5] * 300, quantize="int8")
        assert told(hold(target, [], "81")) == "reference: none, the first prompt does not fit the context"

    def test_without_a_compiler_they_are_refused_as_ever(self, path, monkeypatch):
        def refuse():
            raise NoKernelsError("there is no C++ compiler (g++)")

        monkeypatch.setattr("falcon_cli.target.load.load_kernels", refuse)
        with pytest.raises(NoKernelsError, match="no C"):
            self.load(path, quantize="file")
