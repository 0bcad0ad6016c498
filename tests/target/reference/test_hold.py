"""Falcon's answers against the model's own: a wrong model fails, whatever falcon's own logits say of it."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.target.reference.ask import TOKENS, ask
from falcon_cli.target.reference.hold import TOLERANCE, hold, told

PROMPT = [3, 14, 15, 9, 2, 6]


@pytest.fixture
def target(tiny_model):
    """A tiny fp32 target with its reference: `target(quantize)`."""

    def load(format=None, dtype="fp32"):
        model = tiny_model(dtype=torch.float32)
        reference = ask(model, PROMPT, frozenset())
        native = None
        if format is not None:
            load_kernels()
            native = swap_model(model, format)
        return LoadedTarget("tiny", TargetModel(model, native=native), None, frozenset(), dtype, reference)

    return load


def other_than(reference, position):
    """A token that is far from the model's choice."""
    return int(list(reference.logits[position])[-1])


def with_tie(target, position, gap=1e-5):
    """The target whose reference has two tokens that lie close at a position; also the second of them."""
    reference = target.reference
    logits = [dict(row) for row in reference.logits]
    second = list(logits[position])[1]
    logits[position][second] = max(logits[position].values()) - gap
    return replace(target, reference=replace(reference, logits=logits)), int(second)


def test_the_same_ids_are_equal(target):
    loaded = target()
    entry = hold(loaded, [*loaded.reference.ids, 5, 6], "81")
    assert entry == {
        "verdict": "equal",
        "position": None,
        "margin": None,
        "agreement": None,
        "tokens": TOKENS,
        "prompt": "81",
        "reason": None,
    }
    assert told(entry) == "reference: equal (32 tokens of transformers.generate)"


def test_an_answer_cut_short_is_held_as_far_as_it_goes(target):
    loaded = target()
    entry = hold(loaded, loaded.reference.ids[:7], "81")
    assert (entry["verdict"], entry["tokens"]) == ("equal", 7)


def test_another_token_fails_and_its_place_is_told(target):
    loaded = target()
    ids = list(loaded.reference.ids)
    ids[9] = other_than(loaded.reference, 9)
    entry = hold(loaded, ids, "81")
    assert (entry["verdict"], entry["position"]) == ("FAILED", 9)
    assert entry["margin"] == loaded.reference.gap(9, ids[9]) > TOLERANCE["fp32"]
    assert told(entry).startswith("reference: FAILED at token 9 (margin ")


def test_a_token_beyond_the_likeliest_fails_without_a_margin(target):
    loaded = target()
    strange = next(token for token in range(48) if str(token) not in loaded.reference.logits[0])
    entry = hold(loaded, [strange], "81")
    assert (entry["verdict"], entry["margin"]) == ("FAILED", None)
    assert told(entry) == "reference: FAILED at token 0"


@pytest.mark.parametrize("format", [None, "fp32"])
def test_a_gap_within_rounding_is_a_near_tie(target, format):
    loaded, second = with_tie(target(format), 4)
    entry = hold(loaded, [*loaded.reference.ids[:4], second, 1, 2, 3], "81")
    assert (entry["verdict"], entry["position"]) == ("near-tie", 4)
    assert entry["margin"] == pytest.approx(1e-5, rel=0.1)
    assert told(entry) == "reference: near-tie at token 4 (margin 1e-05)"


def test_the_tolerance_is_the_dtypes(target):
    loaded, second = with_tie(target(), 4, gap=0.02)
    ids = [*loaded.reference.ids[:4], second]
    assert hold(loaded, ids, "81")["verdict"] == "FAILED"
    assert hold(replace(loaded, dtype="fp16"), ids, "81")["verdict"] == "near-tie"


def test_behind_a_near_tie_the_models_text_is_read_by_force(target):
    """Else a model that is read wrongly passed by one near-tie."""
    loaded, second = with_tie(target(), 4)
    loaded.model.decoder.layers[0].self_attn.o_proj.weight.neg_()
    entry = hold(loaded, [*loaded.reference.ids[:4], second], "81")
    assert (entry["verdict"], entry["position"] > 4) == ("FAILED", True)


def test_a_model_that_falcon_reads_wrongly_fails_though_its_own_logits_excuse_it(target):
    loaded = target()
    loaded.model.decoder.layers[0].self_attn.o_proj.weight.neg_()
    wrong = int(loaded.model.prefill(torch.tensor(PROMPT)).choice_T[-1])
    assert hold(loaded, [wrong], "81")["verdict"] == "FAILED"


@pytest.mark.parametrize("format", ["int8", "int4", "bf16"])
def test_other_weights_get_no_verdict_but_their_agreement(target, format):
    loaded = target(format)
    entry = hold(loaded, [other_than(loaded.reference, 0)], "81")
    choices = []
    for place in range(TOKENS):
        scores = loaded.model.prefill(torch.tensor(PROMPT + loaded.reference.ids[:place]))
        choices.append(int(scores.choice_T[-1]))
    agreed = sum(own == theirs for own, theirs in zip(choices, loaded.reference.ids, strict=True))
    assert (entry["verdict"], entry["agreement"], entry["tokens"]) == (None, agreed / TOKENS, TOKENS)
    assert told(entry) == f"reference: {agreed} of 32 tokens are transformers' choice (other weights: no verdict)"


def test_fp32_kernels_on_weights_of_a_coarser_dtype_get_no_verdict(target):
    assert hold(target("fp32", dtype="bf16"), [1], "81")["agreement"] == 1.0


def test_a_reference_of_one_token(target):
    loaded = target("int8")
    reference = replace(loaded.reference, ids=loaded.reference.ids[:1])
    assert hold(replace(loaded, reference=reference), [1], "81")["tokens"] == 1


def test_where_there_is_none_the_reason_is_told(target):
    loaded = target()
    loaded = replace(loaded, reference=replace(loaded.reference, ids=[], reason="the first prompt does not fit"))
    entry = hold(loaded, [], "81")
    assert (entry["verdict"], told(entry)) == (None, "reference: none, the first prompt does not fit")
