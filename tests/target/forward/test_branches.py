import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.core import Draft
from falcon_cli.studies.families import built
from falcon_cli.target.forward.branches import longest_paths
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import ancestors_of

CPU = torch.device("cpu")
TEXT = [5, 9, 40, 41, 3, 9, 9, 17, 60, 2, 31]
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(params=["bloom", "gpt_neo", "llama4_text"])
def target(request):
    """Positions by distance, windows of its own making, chunks and a growing scale."""
    model, _ = made_twin(built(request.param))
    return TargetModel(model, chunk=4, branches=True)


def own_words(target, text):
    with target.plain_transformers() as model, torch.inference_mode():
        return model(torch.tensor([text]), use_cache=False).logits[0]


@pytest.mark.parametrize(
    ("parents", "paths"),
    [
        ((0,), [(0,)]),
        ((0, 0, 1, 2), [(0, 1, 2, 3)]),
        ((0, 0, 0, 1), [(0, 1, 3), (0, 2)]),
        ((0, 0, 0, 0), [(0, 1), (0, 2), (0, 3)]),
    ],
)
def test_the_longest_paths_of_small_trees(parents, paths):
    assert longest_paths(ancestors_of(parents)) == paths


@given(st.lists(st.integers(0, 10**6), max_size=20))
def test_paths_are_those_of_the_leaves_and_hold_every_node(draws):
    parents = (0, *(draw % (node + 1) for node, draw in enumerate(draws)))
    paths = longest_paths(ancestors_of(parents))
    leaves = set(range(len(parents))) - set(parents[1:])
    assert {path[-1] for path in paths} == leaves
    assert len(paths) == len(leaves)
    assert set().union(*paths) == set(range(len(parents)))


def test_every_node_scores_as_its_path_alone(target, random_parents):
    target.prefill(torch.tensor(TEXT))
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(3, 64, (12,), generator=generator).tolist()
    draft = Draft.tree(tokens, random_parents(12, generator), CPU)
    scores = target.score(draft)
    assert target.cache.length == len(TEXT)
    for node, row_T in enumerate(draft.ancestors_TT):
        path = [tokens[place] for place in row_T.nonzero().flatten()]
        torch.testing.assert_close(scores.logits_TV[node], own_words(target, TEXT + path)[-1], **CLOSE)
    torch.testing.assert_close(target.head(scores.features_TD), scores.logits_TV, **CLOSE)


def test_a_kept_branch_is_read_on_from(target):
    target.prefill(torch.tensor(TEXT))
    draft = Draft.tree([7, 8, 9, 10, 11, 12], [0, 0, 0, 1, 2, 4], CPU)
    target.score(draft)
    target.commit([0, 2, 4, 5])  # not the branch that was read first
    text = [*TEXT, 7, 9, 11, 12]
    scores = target.score(Draft.chain([20, 21, 22], CPU))
    torch.testing.assert_close(scores.logits_TV, own_words(target, [*text, 20, 21, 22])[-3:], **CLOSE)


def test_one_forward_for_each_branch(target):
    calls = []
    target.model.register_forward_pre_hook(lambda module, given: calls.append(1))
    target.prefill(torch.tensor(TEXT[:4]))
    for parents, forwards in [((0, 0, 1, 2), 1), ((0, 0, 0, 1, 1), 3)]:
        calls.clear()
        target.score(Draft.tree(range(3, 3 + len(parents)), parents, CPU))
        assert len(calls) == forwards
