"""A benchmark's prompt is found whatever its spacing and position."""

import json

import pytest

from falcon_cli.data.datasets import DATASETS
from falcon_cli.distill.corpus.contamination import BenchPrompts, normalised
from falcon_cli.errors import UsageError
from falcon_cli.recipe.distill import BENCH_SETS

LONG = "Compose an engaging travel blog post about a recent trip to Hawaii"
BENCH = BenchPrompts.from_turns([LONG, "Why?"])


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([LONG], True),
        (["compose an  ENGAGING travel\nblog post about a recent trip to hawaii"], True),
        ([f"Please: {LONG} and so on"], True),
        (["hello", "why?"], True),
        ([f'Please answer: "{LONG}".<|im_end|>'], True),
        (["Why? I wonder"], False),  # short prompts only count whole
        (["Compose an engaging travel blog post about a recent trip to Rome"], False),
        ([], False),
    ],
)
def test_prompts_are_found(messages, found):
    assert BENCH.match(messages) == found


def test_text_is_normalised():
    assert normalised(' "Ä\n b!\t ') == "ä b"


def test_the_code_of_a_fenced_prompt_is_found_without_the_request_around_it():
    bench = BenchPrompts.from_turns(
        ["Complete it.\n\n```python\ndef halve(number: float) -> float:\n    # half of it\n```"]
    )
    assert bench.match(
        ["what does this do?\ndef halve(number: float) -> float:\n    # half of it\n    return number / 2"]
    )
    assert not bench.match(["Complete it, please"])


def test_a_data_set_that_cannot_be_loaded_is_skipped_with_a_warning(monkeypatch, capsys):
    from falcon_cli.distill.corpus import contamination
    from falcon_cli.errors import FalconError

    def load(name):
        raise FalconError("no network")

    monkeypatch.setattr(contamination, "load", load)
    assert BenchPrompts.of(["gsm8k"]).whole == frozenset()
    assert "gsm8k cannot be loaded" in capsys.readouterr().err


def test_an_unknown_data_set_is_wrong_usage():
    with pytest.raises(UsageError, match="mt-bensh"):
        BenchPrompts.of(["mt-bensh"])


def test_mt_bench_is_kept_out():
    assert BenchPrompts.of(["mt-bench"]).match(["Compose an engaging travel blog post about a recent trip to Hawaii, "
        "highlighting cultural experiences and must-see attractions."])  # fmt: skip


def test_a_corpus_is_checked_against_every_benchmark_that_can_be_had():
    assert set(BENCH_SETS) == DATASETS.keys() - {"sharegpt", "spec-bench"}  # a corpus; a file that only its owner has


def test_problems_are_found_by_their_text_and_not_by_their_id(monkeypatch, tmp_path):
    monkeypatch.setenv("FALCON_DATA", str(tmp_path))
    problem = "How many vertical asymptotes does the graph of $y=\\frac{2}{x^2+x-6}$ have?"
    record = {"unique_id": "test/algebra/1.json", "problem": problem, "solution": "\\boxed{2}"}
    (tmp_path / "math_500.jsonl").write_text(json.dumps(record))
    bench = BenchPrompts.of(["math-500"])
    assert bench.match([f"Problem 12: {problem.upper()}"])
    assert not bench.match(["test/algebra/1.json"])
