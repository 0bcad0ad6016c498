import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_cli.core import Scores
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.errors import UsageError

CPU = torch.device("cpu")
SCORES = Scores.of(torch.zeros(1, 1), torch.zeros(1, 1))


def started(text, **options):
    drafter = PromptLookup(CPU, PldOptions(**{"max_ngram": 3, "min_ngram": 1, "length": 10, **options}))
    drafter.start(torch.tensor(text), SCORES)
    return drafter


def copied(draft):
    assert draft.parents == (0, *range(len(draft) - 1))
    return draft.tokens_T[1:].tolist()


def brute_copy(text, options, room):
    """Look the last n tokens up by reading the whole text backwards, longest n first."""
    for n in range(options.max_ngram, options.min_ngram - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[-n:]:
                return text[start + n : start + n + min(room, options.length)]
    return []


@st.composite
def settings_of_pld(draw):
    shortest = draw(st.integers(1, 3))
    return PldOptions(max_ngram=shortest + draw(st.integers(0, 3)), min_ngram=shortest, length=draw(st.integers(1, 6)))


@settings(max_examples=300)
@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    cycles=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    options=settings_of_pld(),
)
def test_drafts_equal_a_brute_force_search_of_the_whole_text(verdict_of, prompt, cycles, options):
    drafter = PromptLookup(CPU, options)
    drafter.start(torch.tensor(prompt), SCORES)
    text = list(prompt)
    for token, room, accepted in cycles:
        text.append(token)
        draft = drafter.propose(token, room)
        assert int(draft.tokens_T[0]) == token
        assert copied(draft) == brute_copy(text, options, room)
        verdict = verdict_of(draft, min(accepted, len(draft) - 1), 0)
        drafter.observe(verdict, SCORES)
        text += verdict.accepted


def test_the_latest_earlier_occurrence_is_copied():
    assert copied(started([1, 2, 7, 1, 2, 8, 9, 1]).propose(2, room=10)) == [8, 9, 1, 2]


def test_a_longer_match_wins_over_a_later_one():
    text = [4, 1, 2, 7, 5, 9, 2, 8, 4, 1]
    assert copied(started(text, max_ngram=3).propose(2, room=2)) == [7, 5]
    assert copied(started(text, max_ngram=1).propose(2, room=2)) == [8, 4]


def test_a_shorter_match_serves_where_no_longer_one_is_and_min_ngram_forbids_it():
    text = [1, 2, 3, 6, 5]
    assert copied(started(text).propose(3, room=2)) == [6, 5]
    assert copied(started(text, min_ngram=2).propose(3, room=2)) == []


def test_a_token_never_seen_before_drafts_nothing():
    assert copied(started([1, 2, 3]).propose(9, room=10)) == []


def test_length_and_room_limit_the_copy():
    text = [1, 2, 3, 4, 5, 6, 7, 8]
    assert copied(started(text, length=3).propose(1, room=9)) == [2, 3, 4]
    assert copied(started(text, length=3).propose(1, room=2)) == [2, 3]
    assert copied(started(text, length=3).propose(1, room=0)) == []


def test_a_new_text_forgets_the_old_one():
    drafter = started([1, 2, 3])
    drafter.start(torch.tensor([5, 6]), SCORES)
    assert copied(drafter.propose(1, room=10)) == []
    assert drafter.text == [5, 6, 1]


@pytest.mark.parametrize(
    "options", [{"min_ngram": 0}, {"min_ngram": 4, "max_ngram": 3}, {"max_ngram": 0}, {"length": 0}]
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(UsageError, match=r"pld: needs 1 <= min_ngram <= max_ngram and length >= 1"):
        PldOptions(**options)


def test_the_length_of_what_had_occurred_before_is_told():
    text = [4, 1, 2, 7, 5, 9, 2, 8, 4, 1]
    assert started(text, max_ngram=4).found(2, 2) == (3, [7, 5])
    assert started(text, max_ngram=1).found(2, 2) == (1, [8, 4])
    assert started(text).found(77, 2) == (0, [])
