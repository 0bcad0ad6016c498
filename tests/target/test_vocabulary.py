from types import SimpleNamespace

import pytest

from falcon_cli.target.vocabulary import foreign_ids, is_alike, ordinary, vocab_hash


def tokenizer(words, added=()):
    vocabulary = {word: number for number, word in enumerate(words)}
    return SimpleNamespace(
        get_vocab=lambda: vocabulary, get_added_vocab=lambda: {word: vocabulary[word] for word in added}
    )


PLAIN = tokenizer(["a", "b", "c"])


def test_ordinary_tokens_are_those_that_nobody_added(byte_tokenizer):
    assert ordinary(tokenizer(["a", "<s>", "b"], ["<s>"])) == {"a": 0, "b": 2}
    assert byte_tokenizer.get_vocab().keys() - ordinary(byte_tokenizer).keys() == {"<|im_end|>", "<|im_start|>"}


def test_the_hash_does_not_depend_on_the_order():
    words = {"a": 0, "b": 1}
    assert vocab_hash(words) == vocab_hash({"b": 1, "a": 0}) != vocab_hash({"a": 1, "b": 0})


@pytest.mark.parametrize(
    ("words", "added", "alike"),
    [
        ("abc", "", True),
        ("abcP", "P", True),
        ("abcPQ", "PQ", True),
        ("abPc", "P", False),
        ("abcd", "", False),
        ("ab", "", False),
        ("acb", "", False),
        ("abd", "d", False),
    ],
)
def test_a_vocabulary_is_known_again_with_more_added_tokens(words, added, alike):
    kept = vocab_hash(PLAIN.get_vocab())
    assert is_alike(tokenizer(words, added), kept, vocab_hash(ordinary(PLAIN))) == alike
    assert is_alike(tokenizer(words, added), kept) == alike


@pytest.mark.parametrize(("words", "added"), [("abcxyP", "xyP"), ("abcxyPQ", "xyPQ")])
def test_an_old_hash_with_added_tokens_is_known_again_with_more_at_the_end(words, added):
    kept = vocab_hash(tokenizer("abcxy", "xy").get_vocab())
    assert is_alike(tokenizer(words, added), kept)
    assert not is_alike(tokenizer("abcyxP", "xyP"), kept)


def test_a_new_hash_knows_a_vocabulary_with_fewer_added_tokens():
    kept = tokenizer("abcxy", "xy")
    assert is_alike(PLAIN, vocab_hash(kept.get_vocab()), vocab_hash(ordinary(kept)))
    assert not is_alike(PLAIN, vocab_hash(kept.get_vocab()))


def test_foreign_ids_are_those_of_other_tokens_or_of_none():
    assert foreign_ids(PLAIN, PLAIN, 3, 3) == frozenset()
    assert foreign_ids(PLAIN, PLAIN, 8, 5) == {5, 6, 7}
    assert foreign_ids(tokenizer("abcx"), tokenizer("abcy"), 5, 5) == {3}
    assert foreign_ids(tokenizer("abc"), tokenizer("abcy"), 5, 5) == {3}
