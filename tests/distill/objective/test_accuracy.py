"""Ranks on held-out text, and the best tree for them."""

from dataclasses import replace
from itertools import chain, combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.distill.objective import accuracy as module
from falcon_cli.distill.objective.accuracy import MISSED, accuracy, best_paths, draft_ranks, expected_accepted
from falcon_cli.distill.objective.csgd import tokens_before
from falcon_cli.drafters.falcon.blocks import Blocks

RANKS = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 9]])


def ranks_of(setup, passes=2):
    return draft_ranks(setup.student.snapshot(), setup.student.weights, setup.features.texts, passes)


def first_pass(setup, number):
    """Each position's rank in one text, straight from the network's own forward; None where there is no loss."""
    network, weights, text, k = (
        setup.student.snapshot(),
        setup.student.weights,
        setup.features.texts[number],
        setup.recipe.network.k,
    )
    tokens_BL, features_BLD = text.tokens_L[None, 1:].long(), text.features_LD[None, :-1]
    length = tokens_BL.shape[1]
    mask = Blocks.of_texts(torch.tensor([length]), length, k, 0)
    out_LD = network(weights.embedding_VD[tokens_BL], features_BLD, mask, tokens_before(weights, tokens_BL, k))[0]
    fixed = {token for token, number in enumerate(weights.number_V.tolist()) if number >= 0}
    ranks = []
    for place in range(length):
        answer = place + k + 1 <= length and bool(text.answer_L[place + k + 1])
        if not answer:
            ranks.append(None)
            continue
        token = int(text.top_ids_LZ[place + k, 0])
        vocabulary = sorted(fixed | set(text.tokens_L[: place + k + 2].tolist()))
        order = [vocabulary[row] for row in (weights.head_VD[vocabulary] @ out_LD[place]).argsort(descending=True)]
        ranks.append(order.index(token) if token in order else MISSED)
    return ranks


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("draft_vocab_size", [0, 20])
def test_the_first_pass_s_ranks_are_those_of_the_whole_network(training_setup, k, draft_vocab_size):
    setup = training_setup(k=k, mixer="time", draft_vocab_size=draft_vocab_size)
    expected = []
    for number, sample in enumerate(setup.samples):
        ranks = first_pass(setup, number)
        blocks = [ranks[begin : begin + k] for begin in range(0, (len(sample) - 1) // k * k, k)]
        expected += [block for block in blocks if None not in block]
    assert sorted(ranks_of(setup, passes=1).tolist()) == sorted(expected)
    assert len(expected) > 10


def test_drafts_are_taken_only_where_every_depth_is_an_answer_s(training_setup):
    setup = training_setup(k=2)
    for passes in (1, 2, 3):
        drafts = 0
        for sample in setup.samples:
            for begin in range(0, len(sample), 2):
                depths = sample.answer[begin + 3 : begin + 3 + 2 * passes]
                drafts += len(depths) == 2 * passes and all(depths)
        assert ranks_of(setup, passes).shape == (drafts, 2 * passes)


def test_padding_and_batch_size_do_not_matter(training_setup, monkeypatch):
    setup = training_setup(k=2, mixer="time")
    together = ranks_of(setup, 2)
    monkeypatch.setattr(module, "_TOKENS", 1)
    assert sorted(ranks_of(setup, 2).tolist()) == sorted(together.tolist())


def test_a_drafter_that_knows_the_text_is_right_at_every_depth(training_setup, monkeypatch):
    """Its features are the target's own, k on."""
    setup = training_setup(k=2)

    def knowing(network, embedded, features_BLD, before, length, passes):
        return [features_BLD.roll(-2, 1)] * passes

    monkeypatch.setattr(module, "unrolled", knowing)
    ranks = ranks_of(setup, 3)
    assert len(ranks) > 5
    right = accuracy(ranks, 2)
    shares = (ranks == 0).float().mean(0)
    assert shares.min() > 0.8  # the last block of an odd text wraps around
    assert right.top5 == [[pytest.approx(1.0, abs=0.2)] * 2] * 3


def test_texts_too_short_for_a_draft_give_none(training_setup):
    setup = training_setup(k=3)
    ranks = draft_ranks(setup.student.snapshot(), setup.student.weights, setup.features.texts[:1], 5)
    assert ranks.shape == (0, 15)
    assert accuracy(ranks, 3).top1 == [[0.0] * 3] * 5
    assert best_paths(ranks, 8) == []
    assert expected_accepted(ranks, [(0,)]) == 0.0


def test_shares_come_by_pass_and_slot():
    shares = accuracy(RANKS, 2)
    assert shares.top1 == [[0.75, 0.75], [0.75, 0.75]]
    assert shares.top5 == [[1.0, 1.0], [1.0, 0.75]]
    assert shares.line() == {"top1": shares.top1, "top5": shares.top5}
    assert accuracy(RANKS, 4).top1 == [[0.75] * 4]


def test_the_best_paths_are_those_most_drafts_begin_with():
    assert best_paths(RANKS, 4) == [(0,), (0, 0), (1,)]  # counts 3, 2, 1: a tie goes to the shallow
    assert best_paths(RANKS, 99, width=2)[:2] == [(0,), (0, 0)]
    assert (0, 0, 0, 9) in best_paths(RANKS, 99)
    assert not any(max(path) > 1 for path in best_paths(RANKS, 99, width=2))


@st.composite
def drafts(draw):
    depth = draw(st.integers(1, 3))
    rows = draw(st.lists(st.lists(st.integers(0, 2), min_size=depth, max_size=depth), min_size=1, max_size=4))
    return torch.tensor(rows), draw(st.integers(2, 4))


@given(drafts())
def test_no_tree_of_as_many_nodes_accepts_more(drawn):
    ranks, nodes = drawn
    paths = best_paths(ranks, nodes)
    assert len(paths) <= nodes - 1
    assert all(len(path) == 1 or path[:-1] in paths[:place] for place, path in enumerate(paths))
    beginnings = sorted({tuple(row[:depth]) for row in ranks.tolist() for depth in range(1, len(row) + 1)})
    trees = chain.from_iterable(combinations(beginnings, count) for count in range(nodes))
    closed = (tree for tree in trees if all(len(path) == 1 or path[:-1] in tree for path in tree))
    assert expected_accepted(ranks, paths) == max(expected_accepted(ranks, tree) for tree in closed)


def test_what_is_accepted_is_the_depth_reached_on_average():
    assert expected_accepted(RANKS, []) == 0.0
    assert expected_accepted(RANKS, [(0,)]) == 0.75
    assert expected_accepted(RANKS, [(0,), (1,), (0, 0), (0, 1), (0, 0, 1)]) == (3 + 2 + 1 + 2) / 4


def test_tokens_that_cannot_be_drafted_rank_after_all_others(training_setup):
    setup = training_setup(k=1, draft_vocab_size=5)
    ranks = ranks_of(setup, 1)
    assert 0 < int((ranks == MISSED).sum()) < len(ranks)
    assert int(ranks[ranks != MISSED].max()) < 48
    weights, texts = setup.student.weights, setup.features.texts
    unknown = next(token for token in range(48) if weights.number_V[token] < 0 and token not in texts[0].tokens_L)
    silent = replace(texts[0], top_ids_LZ=torch.full_like(texts[0].top_ids_LZ, unknown))
    assert (draft_ranks(setup.student.snapshot(), weights, [silent], 1) == MISSED).all()
