"""Weights that are no numbers are named; other weights have another fingerprint."""

import pytest
import torch

from falcon_cli.errors import FalconError
from falcon_cli.target.reference.weights import check_finite, fingerprint

PLACES = ["model.norm.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_no_number_is_named(tiny_model, place, value, dtype):
    model = tiny_model(dtype=dtype)
    check_finite("tiny", model, "fp32")
    model.get_parameter(place).data.view(-1)[7] = value
    with pytest.raises(FalconError, match=f"tiny: {place} holds NaN or infinity instead of numbers; try another check"):
        check_finite("tiny", model, "fp32")


def test_weights_that_only_fp16_cannot_hold_are_finite_elsewhere(tiny_model):
    model = tiny_model(dtype=torch.float32)
    model.model.norm.weight.data[:] = 60_000.0  # their sum is more than fp16 holds, each of them is not
    check_finite("tiny", model.half(), "fp16")
    model.float().model.norm.weight.data[3] = 70_000.0
    check_finite("tiny", model, "fp32")
    with pytest.raises(
        FalconError, match=r"norm\.weight holds NaN or infinity instead of numbers; try --dtype bf16 or"
    ):
        check_finite("tiny", model.half(), "fp16")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("at", [0, 20, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_tells_every_weight(tiny_model, place, at, dtype):
    model, same = tiny_model(dtype=dtype), tiny_model(dtype=dtype)
    before = fingerprint(model)
    assert fingerprint(same) == before
    weight = model.get_parameter(place).data.view(-1)
    weight[at] = torch.nextafter(weight[at], torch.tensor(9.0, dtype=dtype))
    assert fingerprint(model) != before


def test_a_weight_may_lie_anywhere_in_memory(tiny_model):
    model = tiny_model(dtype=torch.float32)
    before = fingerprint(model)
    norm = model.model.norm
    norm.weight = torch.nn.Parameter(torch.cat([torch.zeros(3), norm.weight.data])[3:])
    assert fingerprint(model) == before


def test_a_fingerprint_tells_the_configuration(tiny_model):
    model = tiny_model()
    before = fingerprint(model)
    model.config.rope_parameters["rope_theta"] = 5.0
    assert fingerprint(model) != before


def test_a_weight_may_be_made_of_other_tensors(tiny_model):
    """As those of torchao are, which lack most of torch's operators."""
    from torch.testing._internal.two_tensor import TwoTensor

    model = tiny_model(dtype=torch.float32)
    before = fingerprint(model)
    down = model.model.layers[0].mlp.down_proj
    first, second = down.weight.data, down.weight.data.clone()
    down.weight = torch.nn.Parameter(TwoTensor(first, second), requires_grad=False)
    check_finite("tiny", model, "fp32")
    whole = fingerprint(model)
    second[1, 1] += 1
    assert len({before, whole, fingerprint(model)}) == 3
    second[2, 3] = float("nan")
    with pytest.raises(FalconError, match=r"down_proj\.weight\.b holds NaN or infinity"):
        check_finite("tiny", model, "fp32")
