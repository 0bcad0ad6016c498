"""Medusa's heads learn: which tokens, with which weights, and that they get better."""

import pytest
import torch

from falcon_cli.distill.features.batches import collate
from falcon_cli.distill.objective.accuracy import MISSED
from falcon_cli.distill.students.medusa import DECAY
from falcon_cli.drafters.rivals.medusa import Medusa
from falcon_cli.drafters.saved.checkpoint import load_drafter
from falcon_cli.errors import FalconError
from falcon_cli.recipe.distill import LossRecipe, MedusaRecipe
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, load_tree


@pytest.fixture
def setup(training_setup):
    return training_setup(method="medusa", medusa=MedusaRecipe(k=3, draft_vocab_size=30), noise=0.0)


def batch_of(setup, numbers=(0, 1)):
    return collate(numbers, setup.features.fetch(numbers), torch.device("cpu"), torch.float32)


def drafted(weights, text, place, predicted_D):
    """Log-probabilities of what may be drafted after a place, and the rows in them of the target's choices, or −1."""
    fixed = {token for token, number in enumerate(weights.number_V.tolist()) if number >= 0}
    vocabulary = sorted(fixed | set(text.tokens_L[: place + 2].tolist()))
    rows = [vocabulary.index(token) if token in vocabulary else -1 for token in text.top_ids_LZ[place].tolist()]
    return (weights.head_VD[vocabulary] @ predicted_D).log_softmax(-1), torch.tensor(rows)


@torch.no_grad()
def test_each_head_learns_the_target_s_distribution_at_its_distance(setup):
    """Computed position by position."""
    numbers = (0, 1)
    outcome = setup.student.loss(setup.student.network, batch_of(setup, numbers), 0, glance=0.4)
    weights, loss = setup.student.weights, setup.recipe.loss
    total, right, slots = 0.0, [], []
    for head in (1, 2, 3):
        for text in setup.features.fetch(numbers):
            for place in range(len(text.tokens_L) - 1 - head):
                if not text.answer_L[place + head + 1]:
                    continue
                predicted_D = setup.student.network(text.features_LD[place])[head - 1]
                q_W, ids_C = drafted(weights, text, place + head, predicted_D)
                p_C = text.top_logprobs_LZ[place + head].float().exp() * (ids_C >= 0)
                p_C = p_C / p_C.sum().clamp_min(1e-9)
                kl = (torch.xlogy(p_C, p_C) - p_C * q_W[ids_C.clamp_min(0)]).sum()
                ce = -q_W[ids_C[0]] if ids_C[0] >= 0 else torch.tensor(0.0)
                wrong = predicted_D - text.features_LD[place + head]
                feature = torch.nn.functional.smooth_l1_loss(wrong, torch.zeros_like(wrong))
                total += DECAY ** (head - 1) * float(loss.feature * feature + loss.kl * kl + loss.ce * ce)
                right.append(bool(q_W.argmax() == ids_C[0]))
                slots.append(head)
    assert float(outcome.losses.total) == pytest.approx(total, rel=1e-4)
    assert outcome.slot_M.tolist() == slots
    assert outcome.losses.right_M.sum() == sum(right)
    assert (outcome.glanced, outcome.wrong) == (0, 0)
    assert len(slots) == sum(setup.student.loss_positions(setup.samples[number].answer) for number in numbers)


def test_they_learn(setup):
    losses = setup.trained(10)
    assert losses[-1] < 0.9 * losses[0]


def test_the_ranks_are_those_of_whole_drafts(setup):
    ranks = setup.student.ranks(setup.features.texts)
    whole = sum(all(text.answer_L[p + 2 : p + 5]) for text in setup.features.texts
                for p in range(len(text.tokens_L) - 4))  # fmt: skip
    assert ranks.shape == (whole, 3)
    assert 0 <= int(ranks.min()) <= int(ranks[ranks != MISSED].max()) < 48


def test_what_is_saved_drafts(setup, tmp_path):
    setup.trained(3)
    tree = StoredTree(3, TreeShape.chain(3), {})
    setup.student.save(tmp_path / "drafter", setup.target, {"steps": 3}, tree)
    saved = load_drafter(tmp_path / "drafter", setup.target)
    assert (saved.method, saved.network.k) == ("medusa", 3)
    assert load_tree(tmp_path / "drafter" / "tree.json", 3).shape == tree.shape
    assert "# Medusa heads for tiny" in (tmp_path / "drafter" / "README.md").read_text()
    assert isinstance(setup.student.as_drafter(setup.target, tree.shape), Medusa)
    assert setup.student.usage(tmp_path) == f"--method medusa --drafter {tmp_path}"


def test_a_draft_vocabulary_larger_than_the_target_s_is_refused(training_setup):
    with pytest.raises(FalconError, match=r"medusa\.draft_vocab_size is 49, the target's vocabulary 48"):
        training_setup(method="medusa", medusa=MedusaRecipe(draft_vocab_size=49))


def test_a_loss_of_features_alone_is_possible(training_setup):
    setup = training_setup(method="medusa", medusa=MedusaRecipe(k=1), loss=LossRecipe(1.0, 0.0, 0.0), steps=24)
    losses = setup.trained(24)
    assert sum(losses[-6:]) < sum(losses[:6])
