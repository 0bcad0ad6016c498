import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from falcon_cli.data.chat import render, render_raw
from falcon_cli.errors import FalconError, UsageError

DIALOGUE = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "more"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@pytest.fixture
def tokenizer():
    """A tokenizer of bytes that, like Llama's, puts BOS before every text."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=2)}
    inner = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, **letters}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def text(tokenizer, messages, template=None):
    ids = render(tokenizer, messages, template)
    assert all(type(token) is int for token in ids)
    return tokenizer.decode(ids)


def test_vicuna(tokenizer):
    assert text(tokenizer, DIALOGUE[:1], "vicuna") == f"<s>{VICUNA_SYSTEM} USER: hi ASSISTANT:"
    assert (
        text(tokenizer, [SYSTEM, *DIALOGUE], "vicuna")
        == "<s>Be brief. USER: hi ASSISTANT: hello</s>USER: more ASSISTANT:"
    )


def test_llama_2(tokenizer):
    assert text(tokenizer, DIALOGUE[:1], "llama-2") == "<s>[INST] hi [/INST]"
    assert text(tokenizer, [SYSTEM, *DIALOGUE], "llama-2") == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST] hello </s><s>[INST] more [/INST]"
    )


@pytest.mark.parametrize("template", ["vicuna", "llama-2"])
def test_special_tokens_are_single_ids_and_bos_is_there_once(tokenizer, template):
    assert render(tokenizer, DIALOGUE[:1], template).count(0) == 1
    assert render(tokenizer, DIALOGUE, template).count(1) == 1


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("lmsys/vicuna-7b-v1.3", "<s>A chat"),
        ("meta-llama/Llama-2-7b-chat-hf", "<s>[INST]"),
        ("org/llama2-7b-chat", "<s>[INST]"),
    ],
)
def test_the_tokenizers_name_chooses(tokenizer, name, start):
    tokenizer.name_or_path = name
    assert text(tokenizer, DIALOGUE).startswith(start)


def test_the_tokenizers_own_template_comes_first(tokenizer):
    tokenizer.name_or_path = "lmsys/vicuna-7b-v1.3"
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    )
    assert text(tokenizer, DIALOGUE) == "<s><hi><hello><more>:"
    assert text(tokenizer, DIALOGUE[:1], "llama-2") == "<s>[INST] hi [/INST]"


def test_a_jinja_file(tokenizer, tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("Q: {{ messages[-1].content }} A:")
    assert text(tokenizer, DIALOGUE, str(path)) == "Q: more A:"
    path.write_text("{% for %}")
    with pytest.raises(FalconError, match="does not take these messages"):
        render(tokenizer, DIALOGUE, str(path))


def test_no_template_known(tokenizer):
    with pytest.raises(FalconError, match=r"--raw .* --template"):
        render(tokenizer, DIALOGUE)


def test_an_unknown_template_is_wrong_usage(tokenizer):
    with pytest.raises(UsageError, match="did you mean vicuna"):
        render(tokenizer, DIALOGUE, "vicunna")


@pytest.mark.parametrize("template", ["vicuna", "llama-2"])
def test_messages_in_a_wrong_order_are_refused(tokenizer, template):
    with pytest.raises(FalconError, match="does not take these messages"):
        render(tokenizer, [*DIALOGUE, SYSTEM], template)


def test_raw_text(tokenizer):
    assert tokenizer.decode(render_raw(tokenizer, "as é is")) == "<s>as é is"


def test_raw_text_that_is_empty(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    with pytest.raises(FalconError, match="empty"):
        render_raw(tokenizer, "")
