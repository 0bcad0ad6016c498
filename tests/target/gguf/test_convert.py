import gguf
import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target import gguf as ours
from falcon_cli.target.load import load_target

HEADS, KV_HEADS = 4, 2


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("FALCON_HOME", str(tmp_path / "home"))


def permuted(weight, heads):
    """llama.cpp's order of a rotary weight's rows: pairs side by side instead of half and half."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, model, without=()):
    """A tiny Llama as llama.cpp writes it, with a byte-level BPE tokenizer of 48 tokens."""
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(48)
    letters = [chr(ord("a") + number) for number in range(26)] + [str(digit) for digit in range(10)]
    tokens = ["<s>", "</s>", *letters, "ab", "abc", *(f"<extra{number}>" for number in range(8))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * 38, *[3] * 8])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
    }
    for name, weight in weights.items():
        if "q_proj" in name or "k_proj" in name:
            weight = permuted(weight, HEADS if "q_proj" in name else KV_HEADS)
        for theirs, short in names.items():
            name = name.replace(theirs, short)
        if name not in without:
            writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_gguf(tiny_model, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_model(dtype=torch.float32))
    return path


def test_a_gguf_loads_as_the_model_it_was_written_from(tiny_gguf, tiny_model):
    loaded = load_target(TargetRecipe(model=str(tiny_gguf), device="cpu"))
    prompt = torch.tensor([5, 9, 2, 40])
    with torch.inference_mode():
        expected = tiny_model(dtype=torch.float32)(prompt[None]).logits[0, -1:]
    torch.testing.assert_close(loaded.model.prefill(prompt).logits_TV, expected, rtol=0, atol=1e-4)  # fp32 rounding
    assert loaded.tokenizer("abcd").input_ids[-2:] == [39, 5]
    assert loaded.stop_ids == {1}


def test_a_gguf_is_converted_once_into_the_cache(tiny_gguf, tmp_path, capsys, monkeypatch):
    folder = ours.converted(tiny_gguf)
    assert folder.parent == tmp_path / "home" / "models"
    assert folder.name.startswith("tiny-")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert "quantization_config" not in (folder / "config.json").read_text()
    assert "converting tiny.gguf" in capsys.readouterr().err
    monkeypatch.setattr(ours, "_convert", None)
    assert ours.converted(tiny_gguf) == folder
    assert "converting" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_garbage_gguf_is_one_line_and_leaves_nothing_behind(tmp_path, content):
    path = tmp_path / "garbage.gguf"
    path.write_bytes(content)
    with pytest.raises(FalconError, match="not a GGUF model that transformers can read") as error:
        ours.converted(path)
    assert "\n" not in str(error.value)
    assert not [left for left in (tmp_path / "home" / "models").iterdir() if left.is_dir()]


def test_a_truncated_gguf_is_refused(tiny_gguf):
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:-5000])
    with pytest.raises(FalconError, match="not a GGUF model that transformers can read"):
        ours.converted(tiny_gguf)


def test_a_gguf_without_some_weights_is_refused(tiny_model, tmp_path):
    write_gguf(tmp_path / "holey.gguf", tiny_model(dtype=torch.float32), without={"blk.1.ffn_up.weight"})
    with pytest.raises(FalconError, match=r"1 weights are missing, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        ours.converted(tmp_path / "holey.gguf")


def test_a_gguf_with_tied_weights_is_whole(tiny_model, tmp_path):
    write_gguf(tmp_path / "tied.gguf", tiny_model("llama-tied", dtype=torch.float32), without={"output.weight"})
    model = load_target(TargetRecipe(model=str(tmp_path / "tied.gguf"), device="cpu")).model
    assert model.head.weight is model.model.get_input_embeddings().weight


@pytest.mark.parametrize("size", [100, 5 << 20])
def test_the_fingerprint_changes_with_head_tail_and_size(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    prints = set()
    for number, variant in enumerate(
        [content, b"x" + content[1:], content[:-1] + b"x", content + b"x", content[:-1], content]
    ):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(variant)
        prints.add(ours._fingerprint(path))
    assert len(prints) == 5  # the first and the last are the same file under two names
    assert all(len(text) == 12 for text in prints)
