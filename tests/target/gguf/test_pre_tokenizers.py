import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from falcon_cli.errors import FalconError
from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.pre_tokenizers import pre_tokenizer_of, table

TEXT = "I'LL pay 1234567.5€ ForHelloWORLDs,\n\n  don't  5\n한글 漢字かな x/\n"
WORDS = {  # what llama.cpp's patterns make of it; its own test vectors agree where it has some
    "default": "I|'|LL| pay| |123|456|7|.|5|€| ForHelloWORLDs|,|\n\n | don|'|t| | |5|\n|한글| 漢字かな| x|/|\n",
    "gpt-2": "I|'|LL| pay| 1234567|.|5|€| ForHelloWORLDs|,|\n\n | don|'t| | 5|\n|한글| 漢字かな| x|/|\n",
    "smollm": "I|'|LL| pay| |1|2|3|4|5|6|7|.|5|€| ForHelloWORLDs|,|\n\n | don|'t|  |5|\n|한글| 漢字かな| x|/|\n",
    "llama-bpe": "I|'LL| pay| |123|456|7|.|5|€| ForHelloWORLDs|,\n\n| | don|'t| | |5|\n|한글| 漢字かな| x|/\n",
    "qwen2": "I|'LL| pay| |1|2|3|4|5|6|7|.|5|€| ForHelloWORLDs|,\n\n| | don|'t| | |5|\n|한글| 漢字かな| x|/\n",
    "deepseek-v3": "I|'LL| pay| |123|456|7|.|5|€| ForHelloWORLDs|,\n\n| | don|'t|  |5|\n|한글| |漢字かな| x|/\n",
    "tekken": "I|'LL| pay| |1|2|3|4|5|6|7|.|5|€| For|Hello|WORLDs|,\n\n| | don|'t| | |5|\n|한글| 漢字かな| x|/\n",
    "gpt-4o": "I'LL| pay| |123|456|7|.|5|€| For|Hello|WORLDs|,\n\n| | don't| | |5|\n|한글| 漢字かな| x|/\n",
    "kimi-k2": "I'LL| pay| |123|456|7|.|5|€| For|Hello|WORLDs|,\n\n| | don't| | |5|\n|한글| |漢字|かな| x|/\n",
    "afmoe": "I|'LL| pay| |1|234|567|.|5|€| ForHelloWORLDs|,\n\n| | don|'t|  |5|\n|한글| |漢字かな| x|/\n",
    "falcon": "I|'|LL| pay| |123|456|7|.|5|€| ForHelloWORLDs|,|\n\n | don|'|t| | 5|\n|한글| 漢字かな| x|/|\n",
    "poro-chat": "I'LL| pay| 1234567|.|5€| ForHelloWORLDs|,\n\n | don't| | 5|\n|한글| 漢字かな| x/|\n",
}


def words(name, text=TEXT):
    """The words of a text, which are in byte letters, as text again."""
    bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    cut = table()[name].splitter().pre_tokenize_str(text)
    return [bytes(bytes_of[letter] for letter in word).decode(errors="replace") for word, _ in cut]


@pytest.mark.parametrize("name", WORDS)
def test_a_text_is_cut_as_the_model_was_trained(name):
    assert words(name) == WORDS[name].split("|")


@pytest.mark.parametrize("name", sorted(table()))
def test_every_pre_tokenizer_keeps_the_whole_text(name):
    assert "".join(words(name)) == TEXT


def test_the_table_knows_llama_cpps_flags():
    assert {name for name, how in table().items() if how.begin_token} >= {"llama-bpe", "tekken"}
    assert {name for name, how in table().items() if how.whole_words} >= {"llama-bpe", "tekken", "glm4"}
    assert {name for name, how in table().items() if how.nfc} >= {"qwen2"}
    assert not {"smollm", "gpt-2"} & {name for name, how in table().items() if how.begin_token or how.nfc}
    assert len(table()) == 87


@pytest.mark.parametrize(("pre", "says"), [("brand-new", '"brand-new" is not known'), (None, "is missing")])
def test_an_unknown_one_is_warned_of_by_name_and_the_default_serves(
    pre, says, write_gguf, tiny_model, tmp_path, capsys
):
    file = GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys={"tokenizer.ggml.pre": pre}))
    assert pre_tokenizer_of(file) == table()["default"]
    err = capsys.readouterr().err
    assert f"tokenizer.ggml.pre {says}" in err
    assert len(err.splitlines()) == 1


def test_one_that_merges_no_bytes_is_refused(write_gguf, tiny_model, tmp_path):
    file = GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys={"tokenizer.ggml.pre": "sarvam-moe"}))
    with pytest.raises(FalconError, match=r"tokenizer\.ggml\.pre is sarvam-moe"):
        pre_tokenizer_of(file)
