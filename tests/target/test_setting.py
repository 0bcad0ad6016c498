from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from falcon_cli.recipe.provenance import cpu
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target import setting as module
from falcon_cli.target.load import LoadedTarget, load_target
from falcon_cli.target.setting import Setting

SETTING = Setting("a CPU", "tiny", "fp32", "native", 2)


@pytest.mark.parametrize("field", [one.name for one in fields(Setting)])
def test_the_key_changes_with_every_field(field):
    other = 3 if field == "threads" else "else"
    assert replace(SETTING, **{field: other}).key != SETTING.key


def test_the_key_is_the_same_for_the_same_setting():
    assert Setting("a CPU", "tiny", "fp32", "native", 2).key == SETTING.key
    assert SETTING.key == "03703647eb1b"  # on any day: trees in the cache are found by it
    assert replace(SETTING, device="tiny", target="a CPU").key != SETTING.key


def test_it_reads_well():
    assert str(SETTING) == "tiny in fp32 on a CPU, 2 threads (native kernels)"
    gpu = Setting("a GPU", "tiny", "bf16", "torch", 0)
    assert str(gpu) == "tiny in bf16 on a GPU (torch kernels)"


def test_a_loaded_target_tells_its_setting(chat_target):
    loaded = load_target(TargetRecipe(str(chat_target), kernels="torch"))
    assert Setting.of(loaded) == Setting(cpu(), str(chat_target), "fp32", "torch", torch.get_num_threads())


@pytest.mark.parametrize(
    ("kind", "graphs", "weights", "kernels"),
    [(None, None, "bf16", "torch"), ("int8", None, "int8", "native"), (None, object(), "bf16", "compiled")],
)
def test_weights_and_kernels_are_those_that_run(kind, graphs, weights, kernels):
    native = None if kind is None else SimpleNamespace(kind=kind)
    model = SimpleNamespace(device=torch.device("cpu"), native=native, graphs=graphs)
    found = Setting.of(LoadedTarget("tiny", model, None, frozenset(), "bf16"))
    assert (found.weights, found.kernels) == (weights, kernels)


def test_a_gpu_goes_by_its_name_and_has_no_threads(monkeypatch):
    monkeypatch.setattr(module.torch.cuda, "get_device_name", lambda device: f"name of {device}")
    model = SimpleNamespace(device=torch.device("cuda:1"), native=None, graphs=None)
    found = Setting.of(LoadedTarget("tiny", model, None, frozenset(), "bf16"))
    assert found == Setting("name of cuda:1", "tiny", "bf16", "torch", 0)
