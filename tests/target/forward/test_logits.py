"""What a class makes of its LM head's outputs, asked of the class."""

import pytest
import torch

from falcon_cli.studies.families import built
from falcon_cli.target.forward.logits import PLAIN, LogitForm, fitted, outputs_to_ask
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel

FORMS = [PLAIN, LogitForm(0.125), LogitForm(cap=30.0), LogitForm(1 / 13, 15.0), LogitForm(12.5, 4.0)]
TOKENS = torch.tensor([5, 9, 40, 41, 3, 9, 9, 17, 60])


def asked(make):
    """What is found out about a class that makes such logits."""
    outputs_TV = torch.cat([torch.randn(2, 50), outputs_to_ask(50, torch.device("cpu"))])
    return fitted(outputs_TV, make(outputs_TV))


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_cap_are_found(form):
    found = asked(form)
    assert found.scale == pytest.approx(form.scale, rel=1e-5)
    assert found.cap == (None if form.cap is None else pytest.approx(form.cap, rel=1e-5))
    assert found.plain == (form == PLAIN)


def test_a_scale_is_found_to_the_last_bit():
    assert asked(lambda outputs: outputs / 13).scale == 1 / 13
    assert asked(lambda outputs: outputs * 0.0625).scale == 0.0625


@pytest.mark.parametrize(
    "make",
    [
        lambda outputs: outputs.roll(1, -1),
        lambda outputs: outputs + 1,
        lambda outputs: -outputs,
        lambda outputs: outputs - outputs.mean(-1, keepdim=True),
        lambda outputs: outputs.sign() * outputs.abs().sqrt(),
        lambda outputs: outputs[:, :40],
        lambda outputs: outputs.clamp(-5, 5),
    ],
)
def test_anything_else_is_not_known(make):
    assert asked(make) is None


@pytest.mark.parametrize("form", FORMS)
def test_the_slope_is_autograd_s(form):
    outputs = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    logits = form(outputs)
    (expected,) = torch.autograd.grad(logits.sum(), outputs)
    torch.testing.assert_close(form.slope(logits) * torch.ones_like(outputs), expected)
    assert (form.cap is None) or float(form.slope(torch.tensor(float("-inf")))) == 0


def test_it_is_told():
    assert str(LogitForm(0.125, 30.0)) == "scaled by 0.125 and capped at 30"
    assert str(PLAIN) == ""


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("llama", PLAIN),
        ("granite", LogitForm()),
        ("cohere", LogitForm(0.0625)),
        ("gemma2", LogitForm(cap=30.0)),
        ("phi", PLAIN),
        ("opt", PLAIN),
        ("bloom", PLAIN),
        ("minicpm3", PLAIN),
        ("roberta", PLAIN),
    ],
)
def test_a_target_s_logits_are_its_class_s_own(family, form):
    """Scales, caps, biased heads, projections and divisions before the head."""
    twin, _ = made_twin(built(family))
    target = TargetModel(twin, branches=family == "bloom")
    assert target.logit_form.cap == form.cap
    assert target.logit_form.scale == pytest.approx(form.scale)
    with target.plain_transformers() as plain, torch.inference_mode():
        own_LV = plain(TOKENS[None], position_ids=torch.arange(9)[None]) if family == "roberta" else plain(TOKENS[None])
        features_LD = target.forward.features(TOKENS[None], use_cache=False)[0]
    torch.testing.assert_close(target.logits(features_LD), own_LV.logits[0])
