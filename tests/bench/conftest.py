"""A run that never happened: plausible records of four methods and two peers, all with the same ids."""

import random
from typing import Any, NamedTuple

import pytest

from falcon_cli.bench.figures.records import TurnRecord
from falcon_cli.bench.figures.summary import summarise
from falcon_cli.decode.stats import Completion, Cycle

PEERS = ("hf", "hf-pld")
CATEGORIES = ("writing", "math", "coding")


class Manner(NamedTuple):
    """How a method behaves: chance that a drafted token is accepted, in a loop too; seconds of draft and verify."""

    accept: float
    accept_in_loop: float
    depth: int
    draft: float
    verify: float


MANNERS = {
    "ar": Manner(0.0, 0.0, 0, 0.0, 0.040),
    "falcon": Manner(0.62, 0.9, 6, 0.009, 0.056),
    "eagle": Manner(0.58, 0.85, 5, 0.014, 0.055),
    "pld": Manner(0.15, 0.97, 10, 0.0004, 0.052),
    "hf": Manner(0.0, 0.0, 0, 0.0, 0.047),
    "hf-pld": Manner(0.14, 0.97, 10, 0.0, 0.062),
}


def answer_ids(rng: random.Random) -> tuple[list[int], int]:
    """Random ids, looping from some place on in two answers of five; also that place."""
    free = [rng.randrange(1000) for _ in range(rng.randrange(40, 120))]
    period = rng.randrange(3, 9)
    tail = free[-period:] * 12 if rng.random() < 0.4 else []
    return free + tail, len(free)


def completion(ids: list[int], loop: int, manner: Manner, rng: random.Random) -> Completion:
    cycles: list[Cycle] = []
    at = 1
    while at < len(ids):
        chance = manner.accept_in_loop if at > loop else manner.accept
        emitted = 1
        while emitted <= manner.depth and at + emitted < len(ids) and rng.random() < chance:
            emitted += 1
        slow = rng.uniform(0.95, 1.1)
        draft, verify = manner.draft * slow, manner.verify * slow
        cycles.append(Cycle(emitted, 1 + 4 * manner.depth, draft, verify, draft + verify + 0.003))
        at += emitted
    return Completion(prompt_tokens=64, ids=ids, prefill_seconds=rng.uniform(0.1, 0.2), cycles=cycles, finish="stop")


@pytest.fixture(scope="session")
def records() -> list[TurnRecord]:
    return invent_records()


@pytest.fixture
def results(records: list[TurnRecord]) -> dict[str, Any]:
    return invent_results(records)


def invent_records() -> list[TurnRecord]:
    rng = random.Random(0)
    return [
        TurnRecord(
            str(81 + question), category, turn, method, repeat, (question, turn), answer, f"answer {question}.{turn}"
        )
        for question, category in enumerate(CATEGORIES * 4)
        for turn in range(2)
        for ids, loop in [answer_ids(rng)]
        for method, manner in MANNERS.items()
        for repeat in range(2)
        for answer in [completion(ids, loop, manner, rng)]
    ]


def invent_results(records: list[TurnRecord]) -> dict[str, Any]:
    """The whole results document, as the bench command puts it together."""
    summary = summarise(records, peers=PEERS)
    exact = {"verdict": "exact", "prompts_exact": 24, "prompts": 24, "divergences": []}
    partings = [{"prompt": "84", "position": 17, "margin": 2.1e-5}, {"prompt": "90", "position": 3, "margin": 4e-6}]
    for figures in summary["methods"].values():
        figures["lossless"] = exact
    summary["methods"]["eagle"]["lossless"] = {
        **exact,
        "verdict": "near-ties",
        "prompts_exact": 22,
        "divergences": partings,
    }
    summary["methods"]["pld"]["lossless"] = {
        **exact,
        "verdict": "FAILED",
        "prompts_exact": 23,
        "divergences": [{"prompt": "81", "position": 5, "margin": 1.75}],
    }
    for peer in summary["peers"].values():
        peer["prompts_equal"] = 11
    return {
        "schema": 1,
        "target": "SmolLM2-135M-Instruct",
        "dataset": "mt-bench",
        "prompts": 12,
        "settings": {
            "dtype": "float32",
            "device": "cpu",
            "threads": 2,
            "max_new_tokens": 256,
            "repeats": 2,
            "seed": 0,
            "template": "chatml",
        },
        "reference": {
            "verdict": "near-tie",
            "position": 21,
            "margin": 3.5e-5,
            "agreement": None,
            "tokens": 32,
            "prompt": "81",
            "reason": None,
        },
        "machine": {"cpu": "Imaginary 2000", "cores": 2, "bandwidth_bound_tokens_per_second": 48.25},
        **summary,
    }
