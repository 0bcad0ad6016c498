import pytest

from falcon_cli.errors import FalconError
from falcon_cli.target.gguf.config import check_keys, model_config
from falcon_cli.target.gguf.file import GgufFile


@pytest.fixture
def file_of(write_gguf, tiny_model, tmp_path):
    """A tiny Llama's file with these entries."""
    return lambda **keys: GgufFile(
        write_gguf(tmp_path / "m.gguf", tiny_model(), keys={name.replace("__", "."): keys[name] for name in keys})
    )


def test_a_configuration_says_what_the_file_says(file_of):
    config = model_config(file_of(llama__rope__freq_base=500000.0, tokenizer__ggml__padding_token_id=5))
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("llama", 32, 2)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 8)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 500000.0}
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 5)
    assert (config.vocab_size, config.tie_word_embeddings) == (48, False)


def test_keys_that_nobody_knows_are_warned_of_in_one_line(file_of, capsys):
    model_config(file_of(llama__favourite_colour="blue", clip__size=3, tokenizer__ggml__suppress_tokens=[3, 4]))
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "clip.size, tokenizer.ggml.suppress_tokens, llama.favourite_colour" in err


def test_harmless_keys_are_taken_in_silence(file_of, capsys):
    model_config(
        file_of(
            general__quantized_by="someone",
            quantize__imatrix__file="x",
            llama__tensor_data_layout="Meta AI original pth",
            llama__rope__scaling__finetuned=True,
            tokenizer__ggml__fim_pad_token_id=3,
            tokenizer__chat_template__tools="{{ 1 }}",
        )
    )
    assert capsys.readouterr().err == ""


def test_a_key_of_llama_cpps_that_is_not_read_is_refused_or_only_warned_of(file_of, capsys):
    file = file_of(llama__expert_weights_scale=2.5)
    with pytest.raises(FalconError, match=r"llama\.expert_weights_scale is 2\.5: falcon cannot follow this key"):
        check_keys(file, set(file.own_names()) - {"expert_weights_scale"})
    check_keys(file, set(file.own_names()) - {"expert_weights_scale"}, refuse=False)
    assert "llama.expert_weights_scale" in capsys.readouterr().err


def test_settings_that_contradict_each_other_are_one_line(file_of):
    with pytest.raises(FalconError, match="transformers does not take its settings") as error:
        model_config(file_of(llama__attention__head_count=5, llama__attention__key_length=None))
    assert "\n" not in str(error.value)
