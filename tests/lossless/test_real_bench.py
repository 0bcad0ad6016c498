"""A small benchmark of the real model: every method on every data set and kind of weights. Only wrong output fails it,
never time."""

import pytest

from falcon_cli.bench.run import bench, failed_methods
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe

METHODS = ("ar", "pld", "lookahead", "falcon", "falcon:tree=recipes/trees/smollm2-135m-k2-32.json")


@pytest.mark.parametrize(("dataset", "quantize"), [("humaneval", "none"), ("mt-bench", "int8"), ("humaneval", "int4")])
def test_every_method_says_what_plain_decoding_says(dataset, quantize):
    target = TargetRecipe(device="cpu", dtype="fp32", quantize=quantize, kernels="native")
    recipe = BenchRecipe(target, dataset=dataset, limit=1, methods=METHODS, max_new_tokens=32)
    results = bench(recipe, ["falcon", "bench"])
    assert failed_methods(results) == []
    for name, figures in results["methods"].items():
        assert figures["lossless"]["verdict"] == "exact", name
        assert figures["lossless"]["by_construction"], name
        assert figures["peak_memory_bytes"] is None or figures["peak_memory_bytes"] > 1e8
    assert results["methods"]["falcon"]["accepted_length"] > 0
