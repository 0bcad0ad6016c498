import pytest

from falcon_cli.errors import FalconError
from falcon_cli.target.gguf.file import GgufFile
from falcon_cli.target.gguf.tokenizer import build_tokenizer, special_id

SPACES = ["Ċ", "ĊĊ", "Ġ", "ĠĠ", "ĠF", "x", "=", "5", "1", ".", "S", ":", "F"]
MERGES = ["Ċ Ċ", "Ġ Ġ", "Ġ F"]
PIECES = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁▁", "▁ab", "<|end|>", "<0x0A>"]


@pytest.fixture
def tokenizer_of(write_gguf, tiny_model, tmp_path):
    """The tokenizer of a file with these tokenizer entries; one with a vocabulary of its own has no special tokens."""

    def build(architecture="llama", **entries):
        if "tokens" in entries:
            entries = {"bos_token_id": None, "eos_token_id": None, **entries}
        keys = {f"tokenizer.ggml.{name}": value for name, value in entries.items()}
        keys["tokenizer.chat_template"] = keys.pop("tokenizer.ggml.template", None)
        file = GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys=keys))
        file.architecture = architecture
        return build_tokenizer(file)

    return build


def merged(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("smollm", "S:\n\n1. F", ["S", ":", "ĊĊ", "1", ".", "ĠF"]),
        ("smollm", "x =  5", ["x", "Ġ", "=", "ĠĠ", "5"]),
        ("gpt-2", "S:\n\n1. F", ["S", ":", "Ċ", "Ċ", "1", ".", "ĠF"]),
        ("gpt-2", "x =  5", ["x", "Ġ", "=", "Ġ", "Ġ", "5"]),
    ],
)
def test_digits_behind_white_space_are_cut_as_the_file_says(pre, text, expected, tokenizer_of):
    tokenizer = tokenizer_of(pre=pre, tokens=SPACES, token_type=[1] * len(SPACES), merges=MERGES)
    assert merged(tokenizer, text) == expected
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(("pre", "expected"), [("llama-bpe", ["abc"]), ("gpt-2", ["a", "b", "c"])])
def test_a_word_that_is_a_token_needs_no_merges_where_the_table_says_so(pre, expected, tokenizer_of):
    tokens = ["a", "b", "c", "abc", "ca"]
    tokenizer = tokenizer_of(pre=pre, tokens=tokens, token_type=[1] * 5, merges=["c a"])
    assert merged(tokenizer, "abc") == expected


@pytest.mark.parametrize(
    ("pre", "add", "expected"),
    [
        ("llama-bpe", None, [0, 2]),
        ("llama-bpe", False, [2]),
        ("gpt-2", None, [2]),
        ("gpt-2", True, [0, 2]),
    ],
)
def test_a_begin_token_is_put_first_where_file_or_table_say_so(pre, add, expected, tokenizer_of):
    assert tokenizer_of(pre=pre, add_bos_token=add)("a").input_ids == expected


def test_control_tokens_are_found_whole_even_when_no_byte_letters_spell_them(tokenizer_of):
    tokens = ["a", "<｜User｜>", "<think>", "Ġ", "b", "ba"]
    tokenizer = tokenizer_of(pre="qwen2", tokens=tokens, token_type=[1, 3, 4, 1, 1, 1], merges=["b a"])
    assert tokenizer("a<｜User｜>b<think> a", add_special_tokens=False).input_ids == [0, 1, 4, 2, 3, 0]
    assert tokenizer.decode([0, 1, 4], skip_special_tokens=True) == "ab"
    assert tokenizer.decode([0, 2, 4], skip_special_tokens=True) == "a<think>b"
    assert len(tokenizer) == len(tokens)


def test_qwens_text_is_normalized(tokenizer_of):
    entries = {"tokens": ["Ã", "©", "Ã©", "e", "Ì", "ģ"], "token_type": [1] * 6, "merges": ["Ã ©"]}
    assert merged(tokenizer_of(pre="qwen2", **entries), "e\u0301") == ["Ã©"]
    assert merged(tokenizer_of(pre="smollm", **entries), "e\u0301") == ["e", "Ì", "ģ"]


def sentencepiece(**changes):
    kinds = [2, 3, 3, *[1] * 7, 3, 6]
    scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -3.0, -2.0, -8.0, -1.0, 0.0, 0.0]
    entries = {"model": "llama", "pre": "default", "tokens": PIECES, "token_type": kinds, "scores": scores}
    return {**entries, "merges": None, **changes}


def test_sentencepiece_puts_a_space_first_even_before_a_space(tokenizer_of):
    tokenizer = tokenizer_of(**sentencepiece())
    assert merged(tokenizer, "ab") == ["▁ab"]
    assert merged(tokenizer, " ab") == ["▁", "▁ab"]  # transformers alone says ▁ab
    assert tokenizer("ab").input_ids == [1, 9]
    assert tokenizer.decode([9, 6]) == "ab a"


def test_sentencepiece_puts_no_space_first_where_the_file_says_so(tokenizer_of):
    tokenizer = tokenizer_of(**sentencepiece(add_space_prefix=False))
    assert merged(tokenizer, "ab") == ["ab"]
    assert tokenizer.decode([9]) == " ab"


def test_phi3_drops_white_space_behind_its_special_tokens(tokenizer_of):
    assert merged(tokenizer_of("phi3", **sentencepiece()), "ab<|end|>\nab") == ["▁ab", "<|end|>", "▁ab"]
    assert merged(tokenizer_of(**sentencepiece()), "ab<|end|>\nab") == ["▁ab", "<|end|>", "▁", "<0x0A>", "ab"]


def test_the_files_chat_template_is_the_tokenizers(tokenizer_of):
    turns = [{"role": "user", "content": "a"}]
    assert tokenizer_of(template="{{ messages[0].content }}!").apply_chat_template(turns, tokenize=False) == "a!"
    assert tokenizer_of().chat_template is None


@pytest.mark.parametrize("model", ["bert", "rwkv", "plamo2", "none"])
def test_a_kind_of_tokenizer_that_nobody_can_build_is_one_line(model, tokenizer_of):
    with pytest.raises(FalconError, match=rf"tokenizer\.ggml\.model is {model}: falcon reads gpt2, llama"):
        tokenizer_of(model=model)


@pytest.mark.parametrize(("left_out", "named"), [("merges", "merges"), ("tokens", "tokens")])
def test_half_a_tokenizer_is_refused(left_out, named, tokenizer_of):
    with pytest.raises(FalconError, match=rf"no tokenizer\.ggml\.{named}"):
        tokenizer_of(**{left_out: None})


@pytest.mark.parametrize(("token", "expected"), [(3, 3), (48, None), (None, None)])
def test_a_special_token_out_of_range_is_none(token, expected, write_gguf, tiny_model, tmp_path):
    file = GgufFile(write_gguf(tmp_path / "m.gguf", tiny_model(), keys={"tokenizer.ggml.eos_token_id": token}))
    assert special_id(file, "eos") == expected
