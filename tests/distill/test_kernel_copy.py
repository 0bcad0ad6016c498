"""The copy that answers and reads: where the kernels serve, and never longer than it is needed."""

import gc
import weakref

import pytest
import torch

from falcon_cli.distill import kernel_copy
from falcon_cli.distill.kernel_copy import KernelCopy
from falcon_cli.errors import FalconError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target


@pytest.fixture
def original(chat_target):
    return load_target(TargetRecipe(str(chat_target), kernels="torch"))


def test_the_kernels_read_as_torchs_operators_do(chat_target, original):
    copy = KernelCopy(TargetRecipe(str(chat_target)), original)
    assert copy.original is original
    assert copy.target.model.native.kind == "fp32"
    prompt = torch.tensor([5, 6, 7])
    given, expected = (target.model.prefill(prompt).logits_TV for target in (copy.target, original))
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)


def test_it_is_loaded_once_and_its_memory_comes_back(chat_target, original):
    copy = KernelCopy(TargetRecipe(str(chat_target)), original)
    assert copy.target is copy.target
    model = weakref.ref(copy.target.model)
    copy.release()
    gc.collect()
    assert model() is None
    assert copy.target is not original


@pytest.mark.parametrize("more", [{"kernels": "torch"}, {"attention": "sdpa"}, {"compile": True}, {"dtype": "bf16"}])
def test_where_the_kernels_do_not_serve_nothing_is_loaded_twice(chat_target, more, monkeypatch):
    monkeypatch.setattr("falcon_cli.target.load.multiplies_bf16", lambda: False)
    recipe = TargetRecipe(str(chat_target), **more)
    original = load_target(recipe)
    monkeypatch.setattr(kernel_copy, "load_target", lambda recipe: pytest.fail("loaded"))
    copy = KernelCopy(recipe, original)
    assert copy.target is original
    copy.release()
    assert copy.target is original


def test_quantised_weights_are_asked_of_the_kernels_alone(chat_target, original):
    assert KernelCopy(TargetRecipe(str(chat_target)), original, "int8").target.model.native.kind == "int8"
    with pytest.raises(FalconError, match="needs the native kernels"):
        _ = KernelCopy(TargetRecipe(str(chat_target), kernels="torch"), original, "int8").target
