"""The certificate over a tiny float32 target: honest answers pass, ties are weighed, wrong tokens fail."""

import math

import pytest
import torch

from falcon_cli.bench.figures.certificate import (
    TOLERANCE,
    Certificate,
    Divergence,
    certify,
    first_difference,
    margin_at,
)
from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.decode.stats import Completion
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.target.model import TargetModel

PROMPT = [5, 9, 2, 30]


@pytest.fixture
def target(tiny_model):
    return TargetModel(tiny_model(dtype=torch.float32))


def greedy(target, prompt, tokens=8):
    text = list(prompt)
    for _ in range(tokens):
        text.append(int(target.prefill(torch.tensor(text)).logits_TV[-1].argmax()))
    return text[len(prompt) :]


def record(method, ids, question="q", repeat=0, turn=0):
    return TurnRecord(question, "", turn, method, repeat, tuple(PROMPT), Completion(len(PROMPT), ids), "")


def verdicts(target, records, dtype="fp32", plain=None):
    reference = plain or greedy(target, PROMPT)
    return certify(records, target, dtype, reference=lambda prompt: reference)


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [([1, 2], [1, 2], None), ([1, 2, 3], [1, 9, 3], 1), ([1, 2], [1, 2, 3], 2), ([], [4], 0), ([7], [8], 0)],
)
def test_first_difference(one, other, place):
    assert first_difference(one, other) == place
    assert first_difference(other, one) == place


def test_equal_ids_are_exact(target):
    certificate = verdicts(target, [record("pld", greedy(target, PROMPT))])["pld"]
    assert certificate.to_json() == {
        "verdict": "exact",
        "by_construction": False,
        "prompts_exact": 1,
        "prompts": 1,
        "tolerance": TOLERANCE["fp32"],
        "divergences": [],
    }


def test_a_wrong_token_fails_and_is_named(target):
    plain = greedy(target, PROMPT)
    wrong = [*plain[:3], (plain[3] + 1) % 48, *plain[4:]]
    certificate = verdicts(target, [record("bad", wrong), record("good", plain)])
    assert certificate["good"].verdict == "exact"
    assert certificate["bad"].verdict == "FAILED"
    (divergence,) = certificate["bad"].to_json()["divergences"]
    assert (divergence["prompt"], divergence["position"]) == ("q", 3)
    logits_V = target.prefill(torch.tensor(PROMPT + plain[:3])).logits_TV[-1]
    assert divergence["margin"] == pytest.approx(float(logits_V.max() - logits_V[wrong[3]]))
    assert divergence["margin"] > TOLERANCE["fp32"]


def test_both_tokens_of_a_tie_must_be_near_the_best(target):
    text = PROMPT
    logits_V = target.prefill(torch.tensor(text)).logits_TV[-1]
    best, second, worst = logits_V.topk(48).indices[[0, 1, 47]].tolist()
    assert margin_at(target, text, [best, second]) == pytest.approx(float(logits_V[best] - logits_V[second]))
    assert margin_at(target, text, [second, worst]) == pytest.approx(float(logits_V[best] - logits_V[worst]))


def test_an_answer_that_ends_early_is_no_tie(target):
    plain = greedy(target, PROMPT)
    certificate = verdicts(target, [record("short", plain[:-1])])["short"]
    assert certificate.verdict == "FAILED"
    assert math.isinf(certificate.divergences[0].margin)


def test_divergences_within_rounding_are_near_ties_and_counted():
    def certificate(*margins):
        places = [Divergence(f"q{i}", 0, 0, 5, margin) for i, margin in enumerate(margins)]
        return Certificate(1e-4, {"q0", "q1", "q2"}, places)

    assert certificate(2e-5, 1e-4).verdict == "near-ties"
    assert certificate(2e-5, 1e-4).to_json()["prompts_exact"] == 1
    assert certificate(2e-5, 1.1e-4).verdict == "FAILED"


def test_a_prompt_is_exact_only_if_all_its_turns_and_repeats_are(target):
    plain = greedy(target, PROMPT)
    wrong = [(plain[0] + 1) % 48]
    records = [record("m", plain, "a"), record("m", wrong, "a", repeat=1), record("m", plain, "b")]
    certificate = verdicts(target, records)["m"].to_json()
    assert (certificate["prompts"], certificate["prompts_exact"]) == (2, 1)


def test_on_native_kernels_output_is_exact_by_construction_and_no_gap_is_excused(tiny_model):
    load_kernels()
    model = tiny_model(dtype=torch.float32)
    target = TargetModel(model, native=swap_model(model, "fp32"))
    plain = greedy(target, PROMPT)
    certificates = verdicts(target, [record("good", plain), record("bad", [*plain[:-1], (plain[-1] + 1) % 48])])
    assert certificates["good"].to_json()["by_construction"]
    assert (certificates["good"].verdict, certificates["bad"].verdict) == ("exact", "FAILED")
    assert certificates["good"].tolerance == 0.0


def test_the_tolerance_grows_with_the_coarseness_of_the_dtype():
    assert TOLERANCE["fp32"] < TOLERANCE["fp16"] < TOLERANCE["bf16"]
