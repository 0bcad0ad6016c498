import pytest

from falcon_cli.decode.stop import TAIL, Stop, cut_at

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def spell(ids):
    return "".join(LETTERS[token] for token in ids)


def test_a_stop_token_ends_the_answer_and_is_its_last():
    stop = Stop(ids={9, 8}, max_new_tokens=10)
    assert stop.take([1, 2]) == [1, 2]
    assert stop.finish is None
    assert stop.take([3, 9, 4, 8]) == [3, 9]
    assert stop.finish == "stop"


def test_nothing_is_taken_after_the_end():
    stop = Stop(ids={9}, max_new_tokens=10)
    stop.take([9])
    assert stop.take([1, 2]) == []
    assert stop.finish == "stop"


def test_the_length_limit_cuts_the_last_step():
    stop = Stop(ids=(), max_new_tokens=3)
    assert stop.take([1]) == [1]
    assert (stop.room, stop.finish) == (2, None)
    assert stop.take([2, 3, 4]) == [2, 3]
    assert (stop.room, stop.finish) == (0, "length")


def test_a_stop_token_in_the_last_place_counts_as_stop():
    stop = Stop(ids={9}, max_new_tokens=2)
    assert stop.take([1, 9, 3]) == [1, 9]
    assert stop.finish == "stop"


@pytest.mark.parametrize("split", range(1, 6))
def test_a_stop_string_is_found_across_tokens_and_steps(split):
    ids = [LETTERS.index(letter) for letter in "xxendyy"]
    stop = Stop(ids=(), max_new_tokens=50, strings=("nope", "end"), decode=spell)
    kept = stop.take(ids[:split]) + stop.take(ids[split:])
    assert spell(kept) == "xxend"
    assert stop.finish == "stop"


def test_a_stop_string_may_end_inside_a_token():
    pieces = {0: "foo", 1: "b", 2: "ar and more"}
    stop = Stop(ids=(), max_new_tokens=9, strings=("bar",), decode=lambda ids: "".join(pieces[i] for i in ids))
    assert stop.take([0, 1, 2, 0]) == [0, 1, 2]
    assert stop.finish == "stop"


def test_only_the_tail_is_decoded_and_it_is_long_enough_for_a_string_of_one_letter_tokens():
    longest = []
    string = "z" * (TAIL - 1)

    def decode(ids):
        longest.append(len(ids))
        return spell(ids)

    stop = Stop(ids=(), max_new_tokens=1000, strings=(string,), decode=decode)
    assert len(stop.take([0] * 200 + [25] * 100)) == 200 + len(string)
    assert max(longest) == TAIL


def test_without_stop_strings_nothing_is_decoded():
    def decode(ids):
        raise AssertionError("decoded in vain")

    stop = Stop(ids=(), max_new_tokens=5, decode=decode)
    assert stop.take([1, 2, 3]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("strings", "expected"),
    [
        ((), "one two one"),
        (("three",), "one two one"),
        (("two",), "one "),
        (("two", " t"), "one"),
        (("one",), ""),
    ],
)
def test_cut_at_keeps_the_text_before_the_first_stop_string(strings, expected):
    assert cut_at("one two one", strings) == expected
