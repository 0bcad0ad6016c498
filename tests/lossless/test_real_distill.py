"""The smoke recipe on the real model: from nothing to a drafter that is benchmarked exact, in some minutes."""

from dataclasses import replace
from pathlib import Path

import pytest

from falcon_cli.bench.run import bench
from falcon_cli.distill.run import distill
from falcon_cli.distill.training.log import read_log
from falcon_cli.recipe.distill import DistillRecipe
from falcon_cli.recipe.load import load_recipe
from falcon_cli.recipe.schema import BenchRecipe

RECIPE = Path(__file__).parents[2] / "recipes" / "distill" / "smoke.yaml"
SMALLER = ["corpus.limit=30", "corpus.max_tokens=160", "training.batch_tokens=512", "training.micro_tokens=512"]
ARGV = ["falcon", "distill", "recipes/distill/smoke.yaml"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = load_recipe(DistillRecipe, RECIPE, SMALLER)
    out = tmp_path_factory.mktemp("smoke") / "run"
    return distill(replace(recipe, out=str(out)), ARGV), out


def test_it_learns(run):
    summary, out = run
    losses = [line["loss"] for line in read_log(out / "metrics.jsonl")]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert summary["held_out"]["top1"][0][0] > 0.02  # one in fifty by then; by chance it is one in thousands


def test_what_came_of_it_is_exact(run):
    _, out = run
    recipe = BenchRecipe(
        dataset="mt-bench", limit=1, methods=("falcon",), drafter=str(out / "drafter"), max_new_tokens=16
    )
    falcon = bench(recipe, ["falcon", "bench"])["methods"]["falcon"]
    assert falcon["lossless"]["verdict"] == "exact"
    assert falcon["tokens_per_cycle"] >= 1


def test_the_shipped_drafter_drafts_well():
    """Far below what it reaches over whole data sets (docs/benchmarks), far above any drafter that is out of line."""
    figures = bench(
        BenchRecipe(dataset="humaneval", limit=2, methods=("falcon",), max_new_tokens=48), ["falcon", "bench"]
    )
    falcon = figures["methods"]["falcon"]
    assert falcon["lossless"]["verdict"] == "exact"
    assert falcon["tokens_per_cycle"] > 1.5
