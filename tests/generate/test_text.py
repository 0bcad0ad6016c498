import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from falcon_cli.decode.stop import cut_at
from falcon_cli.generate.text import TextStream


@pytest.fixture(scope="module")
def fallback_tokenizer():
    """As Llama 2's: words begin with ▁, unknown ones are spelt in bytes, and a text's first space is dropped."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁end", "th", "e", "."]
    bpe = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", eos_token="</s>")


def streamed(stream, ids, cuts):
    """All pieces of an answer that comes in steps as long as `cuts` says, drafted up to each step's last token."""
    pieces, begin = [], 0
    for length in [*cuts, len(ids)]:
        step = ids[begin : begin + length]
        pieces += stream.push(step, drafted=max(0, len(step) - 1))
        begin += length
    return [*pieces, *stream.finish()]


def joined(pieces):
    return "".join(piece.text for piece in pieces)


CUTS = st.lists(st.integers(1, 5), max_size=30)


@given(ids=st.lists(st.integers(0, 262), max_size=40), cuts=CUTS)
@example(ids=[0, 1, 2] * 5, cuts=[1] * 15)
def test_the_pieces_are_the_text_of_all_ids(byte_tokenizer, ids, cuts):
    assert len(byte_tokenizer) == 263
    pieces = streamed(TextStream(byte_tokenizer), ids, cuts)
    assert joined(pieces) == byte_tokenizer.decode(ids, skip_special_tokens=True)


@given(text=st.text(st.sampled_from("aé€😀\u200d👩 \n�"), max_size=20), cuts=CUTS)
def test_characters_of_many_tokens_come_whole(byte_tokenizer, text, cuts):
    pieces = streamed(TextStream(byte_tokenizer), byte_tokenizer(text)["input_ids"], cuts)
    assert joined(pieces) == text


@given(
    parts=st.lists(
        st.sampled_from(["▁", "▁the", "▁end", "th", "e", ".", "</s>", "é", "€", "😀", "😀👩", "\n"]), max_size=20
    ),
    cuts=CUTS,
)
@example(parts=["😀", "😀", "😀", "th"], cuts=[1] * 20)
@example(parts=["th", "</s>", "▁end"], cuts=[1] * 3)
def test_bytes_in_a_row_and_dropped_first_spaces_do_no_harm(fallback_tokenizer, parts, cuts):
    ids = []
    for part in parts:
        known = fallback_tokenizer.get_vocab().get(part)
        spelt = [2 + byte for byte in part.encode()]
        ids += spelt if known is None else [known]
    pieces = streamed(TextStream(fallback_tokenizer), ids, cuts)
    assert joined(pieces) == fallback_tokenizer.decode(ids, skip_special_tokens=True)


@given(
    text=st.text(st.sampled_from("ab€"), max_size=30),
    stops=st.lists(st.text(st.sampled_from("ab€"), min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=CUTS,
)
def test_a_stop_text_never_leaks_not_even_its_beginning(byte_tokenizer, text, stops, cuts):
    stream, shown, begin = TextStream(byte_tokenizer, stops), "", 0
    ids = byte_tokenizer(text)["input_ids"]
    for length in [*cuts, len(ids)]:
        shown += joined(stream.push(ids[begin : begin + length], drafted=0))
        assert cut_at(text, stops).startswith(shown)
        begin += length
    assert shown + joined(stream.finish()) == cut_at(text, stops)


def test_each_character_knows_whether_it_was_drafted(byte_tokenizer):
    stream = TextStream(byte_tokenizer)
    first = list(stream.push(byte_tokenizer("a")["input_ids"], drafted=0))
    second = list(stream.push(byte_tokenizer("bcd")["input_ids"], drafted=2))
    third = list(stream.push(byte_tokenizer("€f")["input_ids"], drafted=3))  # three tokens make the €
    shown = [(piece.text, piece.drafted) for piece in [*first, *second, *third, *stream.finish()]]
    assert shown == [("a", False), ("bc", True), ("d", False), ("€", True), ("f", False)]


def test_an_unfinished_character_is_held_back_until_the_end(byte_tokenizer):
    stream = TextStream(byte_tokenizer)
    half = byte_tokenizer("a€")["input_ids"][:2]
    assert joined(stream.push(half, drafted=0)) == "a"
    assert joined(stream.finish()) == "�"
