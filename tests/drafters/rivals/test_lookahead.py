import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.core import Scores
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.decode.verify import pick, verify
from falcon_cli.drafters.rivals.lookahead import Lookahead, LookaheadOptions, NgramPool, merge
from falcon_cli.errors import UsageError

CPU = torch.device("cpu")
SCORES = Scores.of(torch.zeros(1, 1), torch.zeros(1, 1))
VOCAB = 48

DRAWING = """
    r   a1 a2 a3  b1 b2 b3  c1 c2 c3
    1   .  .  .   .  .  .   .  .  .
    1   1  .  .   .  .  .   .  .  .
    1   1  1  .   .  .  .   .  .  .
    1   1  1  1   .  .  .   .  .  .
    1   1  .  .   1  .  .   .  .  .
    1   1  1  .   .  1  .   .  .  .
    1   1  1  1   .  .  1   .  .  .
    1   1  .  .   1  .  .   1  .  .
    1   1  1  .   .  1  .   .  1  .
    1   1  1  1   .  .  1   .  .  1
"""


def drawn():
    rows = DRAWING.strip().splitlines()[1:]
    return torch.tensor([[mark == "1" for mark in row.split()] for row in rows])


def started(prompt, **options):
    drafter = Lookahead(CPU, LookaheadOptions(**options))
    drafter.start(torch.tensor(prompt), SCORES)
    return drafter


def mixed(text):
    return (sum((place + 3) * token for place, token in enumerate(text)) * 7 + len(text)) % VOCAB


def test_the_windows_visibility_and_depths_are_those_of_the_drawing():
    draft = started([1, 2], window=3, ngram=4, prompt_pool=False).propose(5, room=99)
    assert torch.equal(draft.ancestors_TT, drawn())
    assert draft.depth_T.tolist() == [0, 1, 2, 3, 2, 3, 4, 3, 4, 5]
    assert draft.candidate_T.tolist() == [True] + [False] * 9


def test_the_window_rides_behind_the_candidates_and_sees_none_but_the_root():
    drafter = started([5, 6, 7, 8, 5, 6, 9, 9], window=3, ngram=4)
    draft = drafter.propose(5, room=99)  # 5 6 7 8 and 5 6 9 9 share the 6
    assert draft.tokens_T[:6].tolist() == [5, 6, 9, 9, 7, 8]
    assert draft.parents[:6] == (0, 0, 1, 2, 1, 4)
    assert draft.candidate_T.tolist() == [True] * 6 + [False] * 9
    corner = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]
    corner += [[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1]]
    assert draft.ancestors_TT[:6, :6].int().tolist() == corner
    assert not draft.ancestors_TT[:6, 6:].any()
    assert torch.equal(draft.ancestors_TT[6:][:, [0, *range(6, 15)]], drawn()[1:])
    assert not draft.ancestors_TT[6:, 1:6].any()
    assert draft.depth_T.tolist() == [0, 1, 2, 3, 2, 3, 1, 2, 3, 2, 3, 4, 3, 4, 5]


@pytest.mark.parametrize("room", range(6))
def test_no_node_stands_deeper_than_the_room(room):
    draft = started([5, 6, 7, 8, 5, 6, 9, 9], window=3, ngram=4).propose(5, room)
    assert int(draft.depth_T.max()) == room
    assert int(draft.candidate_T.sum()) == {0: 1, 1: 2, 2: 4}.get(room, 6)


@pytest.mark.parametrize(("window", "ngram"), [(1, 2), (3, 4), (4, 2), (5, 3), (2, 5)])
@pytest.mark.parametrize("next_token", [mixed, lambda text: (text[-1] * 3 + len(text) // 4) % 7])
def test_every_cycle_collects_true_jacobi_results(toy_target, window, ngram, next_token):
    target, drafter = toy_target(next_token), Lookahead(CPU, LookaheadOptions(window, ngram, guesses=99))
    prompt = torch.tensor([3, 1, 4, 1, 5])
    scores = target.prefill(prompt)
    drafter.start(prompt, scores)
    token = pick(scores)
    for _ in range(12):
        rows, read = drafter.rows, list(target.read)
        assert [len(row) for row in rows] == [window] * (ngram - 1)
        draft = drafter.propose(token, room=99)
        scores = target.score(draft)
        verdict = verify(draft, scores)
        target.commit(verdict.path)
        drafter.observe(verdict, scores)
        new_row = [
            next_token([*read, token, *rows[0][: column + 1], *(row[column] for row in rows[1:])])
            for column in range(window)
        ]
        assert drafter.rows == [*rows[1:], new_row]
        for ngram_found in zip(*rows, new_row, strict=True):
            assert ngram_found[1:] in drafter.pool.after(ngram_found[0])
        token = verdict.next_token
    assert target.read == [*prompt.tolist(), *target.continuation(prompt.tolist(), len(target.read) - 5)]


@pytest.mark.parametrize(("window", "ngram"), [(3, 4), (6, 3), (2, 2)])
def test_once_the_window_is_all_the_targets_own_its_ngrams_are_what_the_target_says(toy_target, window, ngram):
    """Where the next token hangs on the last one alone, every n-gram must be a true continuation."""

    def successor(token):
        return (token * 11 + 5) % VOCAB

    class Watched(NgramPool):
        def add(self, found):
            added.append(found)
            super().add(found)

    added = []
    target = toy_target(lambda text: successor(text[-1]))
    drafter = Lookahead(CPU, LookaheadOptions(window, ngram, prompt_pool=False))
    prompt = torch.tensor([7, 7, 20, 3])
    drafter.start(prompt, target.prefill(prompt))
    drafter.pool = Watched(5)
    token = successor(3)
    for _ in range(10):
        draft = drafter.propose(token, room=99)
        scores = target.score(draft)
        verdict = verify(draft, scores)
        target.commit(verdict.path)
        drafter.observe(verdict, scores)
        token = verdict.next_token
    assert len(added) == 10 * window
    for found in added[(ngram - 2) * window :]:  # after N - 2 cycles only the first token is still a mere guess
        assert list(found[1:]) == [successor(token) for token in found[:-1]]


def test_found_ngrams_are_accepted(toy_target):
    target = toy_target(lambda text: (text[-1] * 11 + 5) % 12)  # a short cycle, which the pool learns
    answer = complete(target, Lookahead(CPU, LookaheadOptions(4, 4, prompt_pool=False)), [1, 2], Stop((), 60))
    assert answer.ids == target.continuation([1, 2], 60)
    assert max(cycle.emitted for cycle in answer.cycles) == 4  # a whole n-gram less its first token, and the bonus


@given(st.integers(1, 3), st.lists(st.tuples(*[st.integers(0, 2)] * 3), max_size=25))
def test_the_pool_keeps_the_latest_ngrams_of_each_first_token_newest_first(guesses, ngrams):
    pool = NgramPool(guesses)
    for ngram in ngrams:
        pool.add(ngram)
    for first in range(4):
        newest = []
        for ngram in reversed(ngrams):
            if ngram[0] == first and ngram[1:] not in newest:
                newest.append(ngram[1:])
        assert pool.after(first) == newest[:guesses]


@given(st.lists(st.lists(st.integers(0, 2), max_size=4).map(tuple), max_size=8))
def test_merge_makes_one_node_of_every_distinct_prefix_parents_first(branches):
    tokens, parents = merge(9, branches)
    assert (tokens[0], parents[0]) == (9, 0)
    assert all(parent < node for node, parent in enumerate(parents) if node)
    paths = [()]
    for node in range(1, len(tokens)):
        paths.append((*paths[parents[node]], tokens[node]))
    prefixes = {branch[:depth] for branch in branches for depth in range(len(branch) + 1)} | {()}
    assert len(paths) == len(prefixes)
    assert set(paths) == prefixes


def test_the_prompts_own_ngrams_fill_the_pool_unless_unwanted():
    prompt = [1, 2, 3, 1, 4, 5]
    assert started(prompt, ngram=3).pool.after(1) == [(4, 5), (2, 3)]
    assert started(prompt, ngram=3, prompt_pool=False).pool.after(1) == []


def test_a_new_text_forgets_the_old_one():
    drafter = started([1, 2, 3, 4], ngram=3)
    drafter.start(torch.tensor([5, 6, 7]), SCORES)
    assert drafter.pool.after(1) == []
    assert {token for row in drafter.rows for token in row} == {5, 6, 7}


def test_a_prompt_of_one_token_fills_the_whole_window():
    assert started([8], window=4, ngram=3).rows == [[8] * 4] * 2


@pytest.mark.parametrize("options", [{"window": 0}, {"ngram": 1}, {"guesses": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(UsageError, match="lookahead: needs window >= 1, ngram >= 2, guesses >= 1"):
        LookaheadOptions(**options)


def test_a_window_that_no_cache_holds_is_refused_before_anything_runs():
    LookaheadOptions(window=500, ngram=3, guesses=11)  # 1 + 511 · 2 = 1023
    with pytest.raises(UsageError, match="1025 tokens in one forward"):
        LookaheadOptions(window=500, ngram=3, guesses=12)
