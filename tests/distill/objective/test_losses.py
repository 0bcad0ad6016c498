"""The loss against its plain form, and its gradient against autograd's."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, smooth_l1_loss

from falcon_cli.distill.objective.losses import _CHUNK_LOGITS, TeacherSignal, best_tokens, losses
from falcon_cli.recipe.distill import LossRecipe
from falcon_cli.target.forward.logits import PLAIN, LogitForm

VOCAB = 1 << 14
ROWS = _CHUNK_LOGITS // VOCAB
WEIGHTS = LossRecipe(feature=0.5, kl=0.9, ce=0.1)


def text(rows=7, hidden=6, vocab=11, top=4, seed=0, outside=(), in_text=None):
    """Predicted features and a signal; `in_text` marks which of the last tokens each row's text contains."""
    draw = torch.Generator().manual_seed(seed)
    ids_MZ = torch.stack([torch.randperm(vocab, generator=draw)[:top] for _ in range(rows)])
    for row, place in outside:
        ids_MZ[row, place] = -1
    logprobs = torch.randn(rows, top, generator=draw).double().sort(descending=True).values.log_softmax(-1) - 0.2
    features_MD = torch.randn(rows, hidden, generator=draw).double()
    predicted = torch.randn(rows, hidden, generator=draw).double().requires_grad_()
    in_text_MY = torch.zeros(rows, 0, dtype=torch.bool) if in_text is None else torch.tensor(in_text)
    hidden_MC = ids_MZ >= vocab - in_text_MY.shape[1]
    if in_text is not None:
        hidden_MC &= ~in_text_MY.gather(1, (ids_MZ - vocab + in_text_MY.shape[1]).clamp_min(0))
        ids_MZ = ids_MZ.masked_fill(hidden_MC, -1)
    head_WD = torch.randn(vocab, hidden, generator=draw).double()
    return predicted, TeacherSignal(features_MD, ids_MZ, logprobs, head_WD, in_text_MY)


def plain(predicted_MD, teacher_signal, weights):
    """The same by torch's own losses, row by row."""
    head_WD, extra = teacher_signal.head_WD, teacher_signal.in_text_MY.shape[1]
    feature = kl = ce = predicted_MD.new_zeros(())
    for row in range(len(predicted_MD)):
        feature = feature + smooth_l1_loss(predicted_MD[row], teacher_signal.features_MD[row])
        outputs = predicted_MD[row] @ head_WD.T
        logits = teacher_signal.form(outputs if teacher_signal.bias_W is None else outputs + teacher_signal.bias_W)
        hidden = torch.zeros(len(head_WD), dtype=torch.bool)
        hidden[len(head_WD) - extra :] = ~teacher_signal.in_text_MY[row]
        log_q = log_softmax(logits.masked_fill(hidden, -torch.inf), -1)
        drafted = teacher_signal.ids_MZ[row] >= 0
        if drafted.any():
            p = teacher_signal.logprobs_MZ[row][drafted].softmax(-1)
            kl = kl + kl_div(log_q[teacher_signal.ids_MZ[row][drafted]], p, reduction="sum")
        if drafted[0]:
            ce = ce + cross_entropy(log_q[None], teacher_signal.ids_MZ[row, :1])
    return weights.feature * feature + weights.kl * kl + weights.ce * ce, feature, kl, ce


IN_TEXT = [[True, False, True], [False] * 3, [True] * 3] * 2 + [[False, True, False]]


@pytest.mark.parametrize("in_text", [None, IN_TEXT])
@pytest.mark.parametrize("outside", [(), ((1, 2),), ((0, 0),), ((3, 0), (3, 1), (3, 2), (3, 3))])
def test_the_parts_and_the_gradient_are_those_of_the_plain_form(outside, in_text):
    predicted, teacher_signal = text(outside=outside, in_text=in_text)
    result = losses(predicted, teacher_signal, WEIGHTS)
    result.total.backward()
    gradient, predicted.grad = predicted.grad, None
    total, feature, kl, ce = plain(predicted, teacher_signal, WEIGHTS)
    total.backward()
    got = torch.stack([result.total.double(), result.feature.double(), result.kl.double(), result.ce.double()])
    torch.testing.assert_close(got, torch.stack([total, feature, kl, ce]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, predicted.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", [PLAIN, LogitForm(0.25), LogitForm(cap=2.0), LogitForm(0.5, 3.0)])
@pytest.mark.parametrize("in_text", [None, IN_TEXT])
def test_a_biased_head_and_logits_changed_behind_it_are_learned_through(form, biased, in_text):
    predicted, signal = text(in_text=in_text)
    signal = replace(signal, form=form, bias_W=torch.randn(11).double() if biased else None)
    result = losses(predicted, signal, WEIGHTS)
    result.total.backward()
    gradient, predicted.grad = predicted.grad, None
    total, _, kl, ce = plain(predicted, signal, WEIGHTS)
    total.backward()
    got = torch.stack([result.total.double(), result.kl.double(), result.ce.double()])
    torch.testing.assert_close(got, torch.stack([total, kl, ce]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, predicted.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_does_not_depend_on_where_the_chunks_are_cut():
    predicted, teacher_signal = text(rows=2 * ROWS + 3, vocab=VOCAB)
    whole = losses(predicted, teacher_signal, WEIGHTS)
    parts = [
        losses(
            predicted[rows],
            TeacherSignal(
                teacher_signal.features_MD[rows],
                teacher_signal.ids_MZ[rows],
                teacher_signal.logprobs_MZ[rows],
                teacher_signal.head_WD,
                teacher_signal.in_text_MY[rows],
            ),
            WEIGHTS,
        )
        for rows in (slice(0, 5), slice(5, None))
    ]
    torch.testing.assert_close(whole.total, parts[0].total + parts[1].total)
    assert torch.equal(whole.right_M, torch.cat([part.right_M for part in parts]))


def test_a_drafter_that_predicts_the_target_s_distribution_has_no_kl_left():
    vocab, size = 5, 5
    logprobs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    no_extra = torch.zeros(1, 0, dtype=torch.bool)
    teacher_signal = TeacherSignal(
        torch.zeros(1, size), torch.tensor([[4, 0, 2]]), logprobs, torch.eye(vocab), no_extra
    )
    predicted = torch.full((1, size), -60.0)
    predicted[0, [4, 0, 2]] = logprobs[0]
    result = losses(predicted, teacher_signal, WEIGHTS)
    assert abs(float(result.kl)) < 1e-5
    assert result.right_M.tolist() == [True]


def test_a_token_that_cannot_be_drafted_is_never_right():
    predicted, teacher_signal = text(outside=[(row, 0) for row in range(7)])
    assert not losses(predicted, teacher_signal, WEIGHTS).right_M.any()


def test_the_best_tokens_are_the_head_s_argmax():
    predicted, teacher_signal = text(rows=2 * ROWS + 9, vocab=VOCAB)
    assert torch.equal(best_tokens(predicted, teacher_signal), (predicted @ teacher_signal.head_WD.T).argmax(-1))
    assert best_tokens(predicted[:0], teacher_signal).tolist() == []


def test_an_extra_token_may_be_best_only_where_the_text_contains_it():
    in_text_MY = torch.tensor([[True], [False]])
    nothing = torch.zeros(2, 4)
    teacher_signal = TeacherSignal(
        nothing, torch.zeros(2, 1, dtype=torch.long), nothing[:, :1], torch.eye(4), in_text_MY
    )
    assert best_tokens(torch.tensor([[1.0, 2.0, 0.0, 9.0]]).expand(2, 4), teacher_signal).tolist() == [3, 1]
