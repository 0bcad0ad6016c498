"""Numbers that are none end with one line, on all kernels and attentions, wherever they come from."""

import pytest
import torch

from falcon_cli.bench.figures.certificate import margin_at
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.decode.verify import pick
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.errors import FalconError
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.model import TargetModel

PROMPT = [3, 14, 15, 9, 2, 6, 3, 14, 15]
MESSAGE = "logits are not finite numbers .* try --dtype fp32 or bf16, or another checkpoint"
KINDS = ["sdpa", "flex", "compiled", "fp32", "bf16", "bf16x2", "int8", "int4"]


def target_of(model, kind):
    if kind in ("sdpa", "flex"):
        return TargetModel(model, kind)
    if kind == "compiled":
        return TargetModel(model, compiled=True)
    load_kernels()
    return TargetModel(model, native=swap_model(model, kind))


def answer(target, drafter=None):
    return complete(target, drafter or Autoregressive(target.device), PROMPT, Stop((), 12))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_that_is_no_number(tiny_model, kind, value):
    model = tiny_model(dtype=torch.float32)
    model.model.norm.weight.data[5] = value
    with pytest.raises(FalconError, match=MESSAGE):
        answer(target_of(model, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_lost_on_the_way(tiny_model, kind):
    """A layer's own norm: what quantised kernels multiply with it must not become numbers again."""
    model = tiny_model(dtype=torch.float32)
    model.model.layers[0].input_layernorm.weight.data[3] = float("nan")
    with pytest.raises(FalconError, match=MESSAGE):
        answer(target_of(model, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_that_comes_up_only_later(tiny_model, kind):
    """The prompt is read well; the answer's own token is then no number."""
    models = (tiny_model(dtype=torch.float32, seed=seed) for seed in range(99))
    texts = ((model, int(model(torch.tensor([PROMPT])).logits[0, -1].argmax())) for model in models)
    model, first = next((model, first) for model, first in texts if first not in PROMPT)
    model.get_input_embeddings().weight.data[first] = float("nan")
    target = target_of(model, kind)
    assert answer_of_one(target) == [first]
    for drafter in (Autoregressive(target.device), PromptLookup(target.device, PldOptions())):
        with pytest.raises(FalconError, match=MESSAGE):
            answer(target, drafter)
    with pytest.raises(FalconError, match=MESSAGE):
        margin_at(target, [*PROMPT, first], [1, 2])


def answer_of_one(target):
    return complete(target, Autoregressive(target.device), PROMPT, Stop((), 1)).ids


def test_finite_weights_that_fp16_overflows_with(tiny_model):
    model = tiny_model(dtype=torch.float16)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data *= 20_000
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    with pytest.raises(FalconError, match=MESSAGE):
        answer(TargetModel(model))


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4", "bf16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_place_of_the_head_hides_it_from_native_kernels(tiny_model, kind, value):
    """`top_k` skips a NaN that it compares; features that are none make every logit one."""
    model = tiny_model(dtype=torch.float32)
    target = target_of(model, kind)
    features_TD = torch.ones(1, 32)
    features_TD[0, 9] = value
    scores = target.scores_of(features_TD, features_TD)
    with pytest.raises(FalconError, match=MESSAGE):
        pick(scores)
