import shutil
from types import SimpleNamespace

import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.gguf import convert as ours
from falcon_cli.target.load import load_target, load_tokenizer


@pytest.fixture
def tiny_gguf(tiny_model, write_gguf, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", tiny_model(dtype=torch.float32))


def test_a_gguf_loads_as_the_model_it_was_written_from(tiny_gguf, tiny_model):
    loaded = load_target(TargetRecipe(model=str(tiny_gguf), device="cpu"))
    prompt = torch.tensor([5, 9, 2, 40])
    with torch.inference_mode():
        expected = tiny_model(dtype=torch.float32)(prompt[None]).logits[0, -1:]
    torch.testing.assert_close(loaded.model.prefill(prompt).logits_TV, expected, rtol=0, atol=1e-4)  # fp32 rounding
    assert loaded.tokenizer("abcd").input_ids[-2:] == [39, 5]
    assert loaded.stop_ids == {1}


def test_a_gguf_in_capitals_loads_too(tiny_gguf):
    loud = tiny_gguf.rename(tiny_gguf.with_name("TINY.GGUF"))
    assert load_target(TargetRecipe(model=str(loud), device="cpu")).stop_ids == {1}


def test_a_gguf_is_converted_once_into_the_cache(tiny_gguf, tmp_path, capsys, monkeypatch):
    folder = ours.converted(tiny_gguf)
    assert folder.parent == tmp_path / "home" / "models"
    assert folder.name.startswith("tiny-")
    assert folder.name.endswith(f"-v{ours.VERSION}")
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
    with pytest.raises(FalconError, match="not a GGUF model that falcon can read") as error:
        ours.converted(path)
    assert "\n" not in str(error.value)
    assert not [left for left in (tmp_path / "home" / "models").iterdir() if left.is_dir()]


def test_a_truncated_gguf_is_refused(tiny_gguf):
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:-5000])
    with pytest.raises(FalconError, match="not a GGUF model that falcon can read"):
        ours.converted(tiny_gguf)


def test_a_gguf_without_some_weights_is_refused(tiny_model, write_gguf, tmp_path):
    write_gguf(tmp_path / "holey.gguf", tiny_model(dtype=torch.float32), without={"blk.1.ffn_up.weight"})
    with pytest.raises(FalconError, match=r"1 weights are missing, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        ours.converted(tmp_path / "holey.gguf")


def test_a_gguf_with_tied_weights_is_whole(tiny_model, write_gguf, tmp_path):
    write_gguf(tmp_path / "tied.gguf", tiny_model("llama-tied", dtype=torch.float32))
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


def test_a_folder_of_another_version_is_not_used(tiny_gguf, monkeypatch):
    first = ours.converted(tiny_gguf)
    monkeypatch.setattr(ours, "VERSION", ours.VERSION + 1)
    assert ours.converted(tiny_gguf) != first


def test_too_little_room_is_said_before_any_work(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: SimpleNamespace(free=20_000_000 if place is None else 10_000)
    )
    monkeypatch.setattr(ours, "write_weights", None)
    with pytest.raises(
        FalconError, match=r"converted it takes 0\.00 GB, and .*models has 0\.00 GB free: free some, or set"
    ):
        ours.converted(tiny_gguf)
    assert not list((tmp_path / "home" / "models").glob("tiny-*"))


def test_a_tokenizer_that_contradicts_itself_is_one_line(tiny_model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny_model(), keys={"tokenizer.ggml.merges": ["a nowhere"]})
    with pytest.raises(FalconError, match="not a GGUF model that falcon can read") as error:
        ours.converted(path)
    assert "\n" not in str(error.value)


def test_the_ends_of_a_text_are_in_the_generation_configuration(tiny_model, write_gguf, tmp_path):
    from transformers import GenerationConfig

    keys = {"tokenizer.ggml.eot_token_id": 45, "tokenizer.ggml.padding_token_id": 46}
    folder = ours.converted(write_gguf(tmp_path / "m.gguf", tiny_model(dtype=torch.float32), keys=keys))
    found = GenerationConfig.from_pretrained(folder)
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (0, [1, 45], 46)


def test_what_falcon_has_no_description_of_is_left_to_transformers(write_gguf, tmp_path, capsys):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, n_positions=1024, n_inner=64)
    ).eval()
    sizes = {"context_length": 1024, "embedding_length": 16, "block_count": 2, "feed_forward_length": 64}
    rest = {"attention.head_count": 2, "attention.layer_norm_epsilon": 1e-5, "rope.scaling.alpha": 2.0}
    keys = {f"gpt2.{name}": value for name, value in {**sizes, **rest}.items()}
    path = write_gguf(tmp_path / "m.gguf", model, "gpt2", keys)
    assert (ours.converted(path) / "model.safetensors").is_file()
    assert "gpt2.rope.scaling.alpha" in capsys.readouterr().err


def test_an_architecture_that_nobody_can_read_is_one_line(tiny_model, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", tiny_model(), "rwkv7", without=set(tiny_model().state_dict()))
    with pytest.raises(FalconError, match=r"transformers cannot read this model .*rwkv7") as error:
        ours.converted(path)
    assert "\n" not in str(error.value)


def test_the_files_tokenizer_serves_not_the_models_usual_one(tiny_model, write_gguf, tmp_path):
    """AutoTokenizer cuts the text of every Qwen 2 as Qwen does: each digit by itself."""
    tokens = ["<s>", "</s>", "Ġ", *"12345", "12", "123", "45", *(f"word{number}" for number in range(37))]
    entries = {"pre": "llama-bpe", "tokens": tokens, "token_type": [3, 3, *[1] * 46], "merges": ["1 2", "12 3", "4 5"]}
    keys = {f"tokenizer.ggml.{name}": value for name, value in entries.items()}
    path = write_gguf(tmp_path / "m.gguf", tiny_model("qwen2", dtype=torch.float32), "qwen2", keys)
    recipe = TargetRecipe(model=str(path), device="cpu")
    for tokenizer in (load_tokenizer(recipe), load_target(recipe).tokenizer):
        assert tokenizer.convert_ids_to_tokens(tokenizer("12345").input_ids) == ["<s>", "123", "45"]
