"""What became of the dialogues, in numbers that add up."""

import json
from collections import Counter

from falcon_cli.distill.corpus.tally import Tally


def test_a_dialogue_is_used_and_cut_or_left_out_for_its_last_reason():
    tally = Tally(read=4)
    tally.count(1, [])
    tally.count(2, ["at max_tokens", "at max_tokens", "where the answer loops"])
    tally.count(0, ["before its first question", "at a function call"])
    tally.count(0, [])
    assert tally == Tally(
        4,
        2,
        Counter({"at a function call": 1, "without an answer": 1}),
        Counter({"at max_tokens": 1, "where the answer loops": 1}),
    )


def test_lines_tell_the_commonest_reason_first_and_nothing_of_what_is_not():
    tally = Tally(3000, 1001, Counter({"doubled": 1, "skipped": 1998}))
    assert tally.lines() == ["3,000 dialogues read: 1,001 used, 1,999 left out (1,998 skipped, 1 doubled)"]
    assert Tally(1, 1).lines() == ["1 dialogues read: 1 used, 0 left out"]
    tally = Tally(1, 1, cut=Counter({"at max_tokens": 1}), answers=Counter({"where the answer loops": 2}))
    assert tally.lines()[1:] == [
        "1 of those used are cut (1 at max_tokens)",
        "2 of the target's answers are left out or cut (2 where the answer loops)",
    ]


def test_json_keeps_everything():
    tally = Tally(9, 5, Counter({"doubled": 4}), Counter({"at max_tokens": 1}), Counter({"where the answer loops": 2}))
    assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally
