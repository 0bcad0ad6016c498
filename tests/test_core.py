import torch

from falcon_cli.core import Draft

CPU = torch.device("cpu")


def test_a_chain_is_the_tree_with_one_branch():
    chain = Draft.chain([7, 8, 9], CPU)
    tree = Draft.tree([7, 8, 9], [0, 0, 1], CPU)
    assert chain.tokens_T.tolist() == tree.tokens_T.tolist() == [7, 8, 9]
    assert chain.parents == tree.parents == (0, 0, 1)
    assert chain.depth_T.tolist() == tree.depth_T.tolist() == [0, 1, 2]
    assert torch.equal(chain.ancestors_TT, torch.ones(3, 3, dtype=torch.bool).tril())
    assert len(chain) == 3


def test_a_tree_takes_depths_and_visibility_from_its_parents():
    draft = Draft.tree([5, 6, 6, 7], [0, 0, 0, 2], CPU)
    assert draft.depth_T.tolist() == [0, 1, 1, 2]
    assert draft.ancestors_TT.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    assert draft.candidate_T is None


def test_the_root_alone_is_a_draft():
    draft = Draft.chain([3], CPU)
    assert (len(draft), draft.parents, draft.tokens_T.tolist()) == (1, (0,), [3])
