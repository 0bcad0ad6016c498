"""The real thing: SmolLM2-135M-Instruct over real questions (fetched and converted once into $FALCON_HOME)."""

import json
from dataclasses import replace

import pytest

from falcon_cli.bench.measuring.peers import generate
from falcon_cli.bench.run import bench
from falcon_cli.data.chat import ChatTemplate
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe
from falcon_cli.target.load import load_target

TARGET = TargetRecipe(model="smollm2-135m-instruct", dtype="fp32", device="cpu")
METHODS = ("ar", "pld", "lookahead", "lookahead:window=2,ngram=3,guesses=6", "sps")


@pytest.fixture(scope="module")
def target():
    return load_target(TARGET)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`falcon bench` on two MT-Bench questions, both turns; sps drafts with a second copy of the target."""
    out = tmp_path_factory.mktemp("real") / "run"
    recipe = BenchRecipe(
        TARGET, dataset="mt-bench", limit=2, methods=METHODS, draft_model=TARGET.model, max_new_tokens=24
    )
    return bench(recipe, ["falcon", "bench"], out), out


def ask(target, method, question, tokens):
    prompt = ChatTemplate(target.tokenizer).prompt([{"role": "user", "content": question}])
    return prompt, complete(
        target.model, choose(method).build(DraftingContext(target)), prompt, Stop(target.stop_ids, tokens)
    )


def test_it_knows_the_capital_of_france(target):
    _, completion = ask(target, "pld", "What is the capital of France?", 32)
    assert "Paris" in target.tokenizer.decode(completion.ids)
    assert completion.finish == "stop"


def test_plain_decoding_says_what_transformers_generate_says(target):
    prompt, completion = ask(target, "ar", "Name three colours.", 24)
    bare = load_target(replace(TARGET, kernels="torch"))
    assert completion.ids == generate("hf", bare, prompt, 24).ids


def test_every_method_is_certified(run):
    results, _ = run
    assert list(results["methods"]) == list(METHODS)
    for figures in results["methods"].values():
        assert figures["lossless"]["verdict"] in ("exact", "near-ties")
        assert figures["lossless"]["prompts"] == 2


def test_every_method_drafts_and_some_of_it_is_right(run):
    results, _ = run
    accepted = {name: figures["accepted_length"] for name, figures in results["methods"].items()}
    assert accepted.pop("ar") == 0
    assert all(length > 0 for length in accepted.values())
    assert accepted["sps"] > max(length for name, length in accepted.items() if name != "sps")  # its own twin drafts


def test_the_answers_are_english(run):
    _, out = run
    answers = [json.loads(line) for line in (out / "answers" / "ar.jsonl").open()]
    words = " ".join(turn for answer in answers for turn in answer["choices"][0]["turns"]).lower().split()
    assert {"the", "a"} & set(words)
    assert len(words) > 40
