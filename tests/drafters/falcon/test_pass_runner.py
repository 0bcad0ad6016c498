from copy import deepcopy

import pytest
import torch

from falcon_cli.attention.backend import implementation
from falcon_cli.attention.view import View
from falcon_cli.drafters.falcon.network import DrafterNetwork
from falcon_cli.drafters.falcon.pass_runner import NativePassRunner, TorchPassRunner, make_runner
from falcon_cli.native.build import load_kernels
from falcon_cli.native.layer import NativeLinear
from falcon_cli.native.swap import swap_model
from falcon_cli.recipe.distill import NetworkRecipe
from falcon_cli.studies.families import built
from falcon_cli.target.guard.shrink import made_twin
from falcon_cli.target.model import TargetModel
from tests.native.panels import in_rows

VARIANTS = ({}, {"normalise": False}, {"start": "own"}, {"chained": False}, {"normalise": False, "start": "own"})


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    load_kernels()


def engines(tiny_model, tiny_network, k, changes, family="llama-gqa"):
    """The same network twice, and a cache for each."""
    decoder = tiny_model(family, 4, dtype=torch.float32).get_decoder()
    network = tiny_network(decoder, k=k, mixer="linear", **changes).float()
    network.attend_by(implementation("sdpa"))
    pair = TorchPassRunner(deepcopy(network)), NativePassRunner(network, "fp32")
    return pair, [runner.new_cache(64) for runner in pair]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3])
@torch.inference_mode()
def test_kernels_compute_what_the_network_computes(tiny_model, tiny_network, k, changes):
    """A prompt, then two blocks of a tree, step by step."""
    (ours, native), caches = engines(tiny_model, tiny_network, k, changes)
    generator = torch.Generator().manual_seed(k)
    rows_of = lambda *shape: torch.randn(*shape, 32, generator=generator)  # noqa: E731
    seen = torch.block_diag(*[torch.ones(k, k)] * 2).bool()
    views = [(View(0, torch.arange(6), None), 6), (View(6, torch.arange(k).repeat(2), seen), k)]
    for view, block in views:
        count = len(view.depth_T)
        embedded, features = rows_of(1, count), rows_of(1, count)
        mixed = [native.mix(embedded, features, None).hidden_BLD for native in (ours, native)]
        torch.testing.assert_close(*mixed, rtol=1e-5, atol=1e-5)
        hidden = [
            native.attend(mixed[0], view, block, cache) for native, cache in zip((ours, native), caches, strict=True)
        ]
        torch.testing.assert_close(*hidden, rtol=2e-5, atol=2e-5)
        for cache in caches:
            cache.commit(range(count))
        for before in (None, rows_of(count)):
            finished = [native.finish(hidden[0][0], before) for native in (ours, native)]
            torch.testing.assert_close(*finished, rtol=2e-5, atol=2e-5)
    held = in_rows(caches[1])
    torch.testing.assert_close(caches[0].buffer[..., : held.shape[-2], :], held, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("mixer", "kind"), [("linear", NativePassRunner), ("time", TorchPassRunner)])
def test_a_target_on_kernels_gets_a_drafter_on_kernels(tiny_model, tiny_network, mixer, kind):
    model = tiny_model("llama-gqa", 4, dtype=torch.float32)
    target = TargetModel(model, native=swap_model(model, "fp32"))
    network = tiny_network(tiny_model("llama-gqa", 4, dtype=torch.float32).get_decoder(), k=2, mixer=mixer).float()
    native = make_runner(network, target)
    assert isinstance(native, kind)
    if kind is TorchPassRunner:
        assert isinstance(native.network.layer.self_attn.q_proj, NativeLinear)


def test_other_targets_lend_their_attention(tiny_model, tiny_network):
    model = tiny_model("llama-gqa", 4)
    target = TargetModel(model)
    native = make_runner(tiny_network(model.get_decoder(), k=2), target)
    assert isinstance(native, TorchPassRunner)
    assert native.network.layer.self_attn.config._attn_implementation == target.attention


def test_where_the_target_reads_by_its_own_attention_the_drafter_does_not():
    """It drafts trees even for a target whose drafts are read branch by branch."""
    target = TargetModel(made_twin(built("bloom"))[0].float(), branches=True)
    network = DrafterNetwork(NetworkRecipe(k=2, mixer="linear"), target.outline)
    make_runner(network, target)
    assert target.attention != implementation("sdpa")
    assert network.layer.self_attn.config._attn_implementation == implementation("sdpa")
