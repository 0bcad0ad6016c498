from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from falcon_cli.core import Draft, Scores
from falcon_cli.decode.verify import pick, verify
from falcon_cli.errors import FalconError

CPU = torch.device("cpu")


def scores(logits_TV):
    return Scores.of(logits_TV, torch.zeros(len(logits_TV), 1))


@st.composite
def scored_trees(draw):
    """A random tree over a small alphabet (so that siblings double and paths agree), with random logits."""
    nodes, alphabet = draw(st.integers(1, 14)), draw(st.integers(1, 3))
    parents = [0, *(draw(st.integers(0, node - 1)) for node in range(1, nodes))]
    tokens = draw(st.lists(st.integers(0, alphabet - 1), min_size=nodes, max_size=nodes))
    logits_TV = torch.rand(nodes, alphabet, generator=torch.Generator().manual_seed(draw(st.integers(0, 9999))))
    candidates = [True, *draw(st.lists(st.booleans(), min_size=nodes - 1, max_size=nodes - 1))]
    return tokens, parents, logits_TV, candidates


def walk(tokens, parents, choices, allowed):
    """Every root path that agrees with the target, by brute force."""
    paths, frontier = [[0]], [[0]]
    while frontier:
        path = frontier.pop()
        for node in range(1, len(tokens)):
            if parents[node] == path[-1] and allowed[node] and tokens[node] == choices[path[-1]]:
                frontier.append([*path, node])
                paths.append([*path, node])
    return paths


@settings(max_examples=300)
@given(scored_trees())
def test_the_longest_agreeing_root_path_is_accepted(scored):
    tokens, parents, logits_TV, _ = scored
    choices = logits_TV.argmax(-1).tolist()
    paths = walk(tokens, parents, choices, [True] * len(tokens))
    verdict = verify(Draft.tree(tokens, parents, CPU), scores(logits_TV))
    path = list(verdict.path)
    assert path in paths
    assert len(path) == max(map(len, paths))
    assert path[-1] == min(other[-1] for other in paths if len(other) == len(path))  # the first of equally deep ones
    assert verdict.accepted == tuple(tokens[node] for node in path[1:])
    assert verdict.next_token == choices[path[-1]]
    assert verdict.choices == tuple(choices)


@settings(max_examples=300)
@given(scored_trees())
def test_nodes_that_are_no_candidates_are_never_accepted(scored):
    tokens, parents, logits_TV, candidates = scored
    draft = replace(Draft.tree(tokens, parents, CPU), candidate_T=torch.tensor(candidates))
    path = list(verify(draft, scores(logits_TV)).path)
    paths = walk(tokens, parents, logits_TV.argmax(-1).tolist(), candidates)
    assert path in paths
    assert len(path) == max(map(len, paths))


def test_riders_with_an_ancestor_mask_of_their_own_are_never_accepted():
    """A rider may see nodes that do not hang above it in `parents`, and agree with everything."""
    agreeing = torch.tensor([[0.0, 1.0]] * 3)
    draft = replace(
        Draft.chain([1, 1, 1], CPU),
        parents=(0, 0, 0),
        depth_T=torch.tensor([0, 1, 5]),
        ancestors_TT=torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool(),
        candidate_T=torch.tensor([True, True, False]),
    )
    verdict = verify(draft, scores(agreeing))
    assert list(verdict.path) == [0, 1]


def test_doubled_siblings_count_by_what_follows_them():
    """Both children hold the target's token; only the second one's child agrees too."""
    draft = Draft.tree([0, 1, 1, 0, 1], [0, 0, 0, 1, 2], CPU)
    always_1 = torch.tensor([[0.0, 1.0]]).repeat(5, 1)
    verdict = verify(draft, scores(always_1))
    assert list(verdict.path) == [0, 2, 4]
    assert verdict.accepted == (1, 1)


def test_of_doubled_leaves_the_first_is_taken():
    verdict = verify(Draft.tree([0, 1, 1], [0, 0, 0], CPU), scores(torch.tensor([[0.0, 1.0]] * 3)))
    assert list(verdict.path) == [0, 1]


def test_the_root_alone_is_always_accepted_and_yields_the_bonus_token():
    verdict = verify(Draft.chain([4], CPU), scores(torch.tensor([[0.0, 0.5, 2.0, 1.0]])))
    assert (list(verdict.path), verdict.accepted, verdict.next_token) == ([0], (), 2)


def test_pick_takes_the_last_rows_argmax():
    assert pick(scores(torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))) == 2


BAD = [
    [0.0, float("nan")],
    [float("nan"), 0.0],
    [float("nan"), float("nan")],
    [0.0, float("inf")],
    [float("-inf"), float("-inf")],
]


@pytest.mark.parametrize("row", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_that_are_no_numbers_choose_no_token(row, dtype):
    bad = torch.tensor([[0.0, 1.0], row], dtype=dtype)
    with pytest.raises(FalconError, match="not finite numbers"):
        pick(scores(bad))
    with pytest.raises(FalconError, match="not finite numbers"):
        verify(Draft.chain([0, 1], CPU), scores(bad))
    with pytest.raises(FalconError, match="not finite numbers"):
        verify(Draft.chain([0, 1], CPU), scores(bad.flip(0)))


def test_a_token_that_is_ruled_out_may_be_minus_infinity():
    assert pick(scores(torch.tensor([[float("-inf"), 1.0]]))) == 1


def test_features_that_are_no_numbers_choose_no_token_either():
    """Native kernels may skip a NaN, and choose among the rest."""
    logits_TV = torch.tensor([[0.0, 1.0]])
    for value in (float("nan"), float("inf")):
        with pytest.raises(FalconError, match="not finite numbers"):
            pick(Scores.of(logits_TV, torch.tensor([[0.0, 0.0], [1.0, value]])))
    large = torch.full((1, 64), 60_000.0, dtype=torch.float16)  # the sum is more than fp16 holds
    assert pick(Scores.of(logits_TV, large)) == 1


def test_a_branch_that_is_not_taken_may_be_anything():
    tree = Draft.tree([0, 1, 0], [0, 0, 0], CPU)
    logits_TV = torch.tensor([[0.0, 1.0], [0.0, 1.0], [float("nan"), 0.0]])
    verdict = verify(tree, scores(logits_TV))
    assert (verdict.path, verdict.next_token) == ((0, 1), 1)
