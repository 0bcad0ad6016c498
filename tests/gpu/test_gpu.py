"""What only a GPU can show; runs where there is one."""

from dataclasses import replace

import pytest
import torch

from falcon_cli.attention.backend import BACKENDS, pick_backend
from falcon_cli.bench.run import bench, failed_methods
from falcon_cli.core import Draft
from falcon_cli.errors import UsageError
from falcon_cli.recipe.schema import BenchRecipe, TargetRecipe
from falcon_cli.target.load import load_target
from falcon_cli.target.model import TargetModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TARGET = TargetRecipe(device="cuda", dtype="bf16", attention="sdpa")
METHODS = ("ar", "pld", "lookahead", "falcon")


def backends():
    for name in BACKENDS:
        try:
            yield pick_backend(name, torch.device("cuda"), torch.bfloat16)
        except UsageError:  # flash-attn is not installed
            continue


def test_trees_score_alike_on_every_backend(tiny_model, random_parents):
    generator = torch.Generator().manual_seed(0)
    parents = random_parents(20, generator)
    tokens = torch.randint(48, (20,), generator=generator).tolist()
    device, logits = torch.device("cuda"), {}
    for name in backends():
        target = TargetModel(tiny_model("llama-wide-head", 3, dtype=torch.bfloat16).to(device), name)
        target.prefill(torch.arange(3, 40, device=device))
        logits[name] = target.score(Draft.tree(tokens, parents, device)).logits_TV.float()
    for name, given in logits.items():  # bf16 keeps 8 bits
        assert (given - logits["sdpa"]).norm() <= 3e-2 * logits["sdpa"].norm(), name


@pytest.mark.parametrize("compiled", [False, True])
def test_every_method_is_certified_on_the_real_model(compiled):
    recipe = BenchRecipe(
        replace(TARGET, compile=compiled), dataset="mt-bench", limit=3, methods=METHODS, max_new_tokens=48
    )
    assert failed_methods(bench(recipe, ["falcon", "bench"])) == []


def test_no_graph_is_made_once_the_shapes_are_known():
    target = load_target(replace(TARGET, compile=True)).model
    target.prefill(torch.arange(3, 40, device=target.device))
    made = []
    for _ in range(3):
        for nodes in (1, 2, 5, 7, 8):
            target.score(Draft.chain(list(range(3, 3 + nodes)), target.device))
            target.commit([0])
        made.append(target.graphs.made)
    assert made == [3, 3, 3]  # 1, 2 and 8 rows
