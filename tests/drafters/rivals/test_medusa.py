"""Medusa: each depth from its own head, all from the target's feature before the root."""

import pytest
import torch

from falcon_cli.core import Scores
from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.rivals.medusa import Medusa, MedusaNetwork
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import MedusaRecipe
from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel
from falcon_cli.tree.shape import TreeShape

WIDE = TreeShape.from_paths([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 1, 0), (0, 1, 2)])
SOME = torch.arange(0, 48, 2)


@pytest.fixture
def target(tiny_model):
    return TargetModel(tiny_model())


@pytest.mark.parametrize("vocabulary_W", [None, SOME], ids=["all", "some"])
def test_a_node_is_its_depth_s_head_s_choice_of_its_rank(target, tiny_heads, vocabulary_W, verdict_of):
    network = tiny_heads(target.decoder, k=3)
    drafter = Medusa(network, target, WIDE, vocabulary_W)
    head_VD = target.head.weight
    scores = target.prefill(torch.tensor([5, 6, 7]))
    drafter.start(torch.tensor([5, 6, 7]), scores)

    def expected(feature_D, *said):
        nodes = []
        open_W = torch.arange(48) if vocabulary_W is None else torch.tensor(sorted({*SOME.tolist(), 5, 6, 7, *said}))
        for path in WIDE.paths:
            head = len(path) - 1
            scaled_D = feature_D / network.scale_D
            mapped_D = network.maps[head](scaled_D + torch.nn.functional.silu(network.blocks[head](scaled_D)))
            made_D = mapped_D / mapped_D.square().mean().add(network.epsilon).sqrt() * network.norm_KD[head]
            nodes.append(int(open_W[(head_VD[open_W] @ made_D).topk(3).indices[path[-1]]]))
        return nodes

    draft = drafter.propose(9, 5)
    assert draft.tokens_T.tolist() == [9, *expected(scores.features_TD[-1], 9)]
    features_TD = torch.randn(9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    drafter.observe(verdict_of(draft, 2, next_token=4), Scores.of(torch.zeros(9, 48), features_TD))
    assert drafter.propose(4, 5).tokens_T.tolist() == [4, *expected(features_TD[2], 9, 4)]


def test_room_cuts_the_tree(target, tiny_heads):
    drafter = Medusa(tiny_heads(target.decoder, k=3), target, WIDE)
    drafter.start(torch.tensor([5]), target.prefill(torch.tensor([5])))
    assert [len(drafter.propose(9, room)) for room in (0, 1, 2, 3, 9)] == [1, 4, 7, 9, 9]


def test_a_tree_deeper_than_the_heads_is_refused(target, tiny_heads):
    with pytest.raises(FalconError, match="the tree is 3 deep, this drafter drafts 2: keep less with depth=N"):
        Medusa(tiny_heads(target.decoder, k=2), target, WIDE)


def test_it_runs_one_pass_whatever_is_wanted(target, tiny_heads):
    assert Medusa(tiny_heads(target.decoder, k=3), target, WIDE).most_passes(4) == 1


def test_new_heads_say_what_the_lm_head_says(target):
    network = MedusaNetwork(MedusaRecipe(k=2), target.outline)
    network.initialise(target.outline)
    features_LD = target.prefill(torch.tensor([5, 6, 7, 8])).features_TD.float()  # as the final norm leaves them
    expected = features_LD[:, None].expand(4, 2, 32)
    torch.testing.assert_close(network(features_LD), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "olmo", "phi", "gpt2"])
def test_new_heads_of_any_target_say_what_its_lm_head_says(family):
    target = TargetModel(made_twin(built(family))[0].float())
    network = MedusaNetwork(MedusaRecipe(k=2), target.outline)
    network.initialise(target.outline)
    features_LD = target.prefill(torch.tensor([5, 6, 7, 8])).features_TD
    torch.testing.assert_close(network(features_LD)[:, 1], features_LD, rtol=1e-2, atol=1e-2)


def test_another_tree_shares_the_weights(target, tiny_heads):
    drafter = Medusa(tiny_heads(target.decoder, k=3), target, WIDE)
    other = drafter.with_tree(TreeShape.chain(3))
    assert other.network is drafter.network
    assert not isinstance(other, DynamicFalcon)
    drafter.start(torch.tensor([5]), target.prefill(torch.tensor([5])))
    other.start(torch.tensor([5]), target.prefill(torch.tensor([5])))
    wide, chain = drafter.propose(9, 3).tokens_T.tolist(), other.propose(9, 3).tokens_T.tolist()
    assert chain[1] == wide[1]
