"""The loss against its plain form, and its gradient against autograd's."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, smooth_l1_loss

from falcon_cli.distill.losses import _HELD, Teaching, best_tokens, losses
from falcon_cli.recipe.distill import LossRecipe

WORDS = 1 << 14
ROWS = _HELD // WORDS
WEIGHTS = LossRecipe(feature=0.5, kl=0.9, ce=0.1)


def lesson(rows=7, hidden=6, words=11, top=4, seed=0, outside=()):
    draw = torch.Generator().manual_seed(seed)
    ids_MC = torch.stack([torch.randperm(words, generator=draw)[:top] for _ in range(rows)])
    for row, place in outside:
        ids_MC[row, place] = -1
    logprobs = torch.randn(rows, top, generator=draw).double().sort(descending=True).values.log_softmax(-1) - 0.2
    teaching = Teaching(torch.randn(rows, hidden, generator=draw).double(), ids_MC, logprobs)
    predicted = torch.randn(rows, hidden, generator=draw).double().requires_grad_()
    return predicted, torch.randn(words, hidden, generator=draw).double(), teaching


def plain(predicted_MD, head_WD, teaching, weights):
    """The same by torch's own losses, row by row."""
    feature = kl = ce = predicted_MD.new_zeros(())
    for row in range(len(predicted_MD)):
        feature = feature + smooth_l1_loss(predicted_MD[row], teaching.features_MD[row])
        log_q = log_softmax(predicted_MD[row] @ head_WD.T, -1)
        told = teaching.ids_MC[row] >= 0
        if told.any():
            p = torch.zeros_like(log_q)
            p[teaching.ids_MC[row][told]] = teaching.logprobs_MC[row][told].softmax(-1)
            kl = kl + kl_div(log_q, p, reduction="sum")
        if told[0]:
            ce = ce + cross_entropy((predicted_MD[row] @ head_WD.T)[None], teaching.ids_MC[row, :1])
    return weights.feature * feature + weights.kl * kl + weights.ce * ce, feature, kl, ce


@pytest.mark.parametrize("outside", [(), ((1, 2),), ((0, 0),), ((3, 0), (3, 1), (3, 2), (3, 3))])
def test_the_parts_and_the_gradient_are_those_of_the_plain_form(outside):
    predicted, head, teaching = lesson(outside=outside)
    told = losses(predicted, head, teaching, WEIGHTS)
    told.total.backward()
    mine, predicted.grad = predicted.grad, None
    total, feature, kl, ce = plain(predicted, head, teaching, WEIGHTS)
    total.backward()
    got = torch.stack([told.total.double(), told.feature.double(), told.kl.double(), told.ce.double()])
    torch.testing.assert_close(got, torch.stack([total, feature, kl, ce]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine, predicted.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_does_not_depend_on_where_the_chunks_are_cut():
    predicted, head, teaching = lesson(rows=2 * ROWS + 3, words=WORDS)
    whole = losses(predicted, head, teaching, WEIGHTS)
    parts = [
        losses(
            predicted[rows],
            head,
            Teaching(teaching.features_MD[rows], teaching.ids_MC[rows], teaching.logprobs_MC[rows]),
            WEIGHTS,
        )
        for rows in (slice(0, 5), slice(5, None))
    ]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert torch.equal(whole.right_M, torch.cat([part.right_M for part in parts]))


def test_a_drafter_that_says_what_the_target_says_has_no_kl_left():
    words, hidden = 5, 5
    logprobs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    teaching = Teaching(torch.zeros(1, hidden), torch.tensor([[4, 0, 2]]), logprobs)
    predicted = torch.full((1, hidden), -60.0)
    predicted[0, [4, 0, 2]] = logprobs[0]
    told = losses(predicted, torch.eye(words), teaching, WEIGHTS)
    assert abs(float(told.kl)) < 1e-5
    assert told.right_M.tolist() == [True]


def test_a_token_that_cannot_be_drafted_is_never_right():
    predicted, head, teaching = lesson(outside=[(row, 0) for row in range(7)])
    assert not losses(predicted, head, teaching, WEIGHTS).right_M.any()


def test_the_best_tokens_are_the_head_s_argmax():
    predicted, head, _ = lesson(rows=2 * ROWS + 9, words=WORDS)
    assert torch.equal(best_tokens(predicted, head), (predicted @ head.T).argmax(-1))
    assert best_tokens(predicted[:0], head).tolist() == []
