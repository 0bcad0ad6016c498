"""Every method on native kernels: the ids of plain decoding on the same kernels, with no tie to excuse."""

from dataclasses import replace

import pytest
import torch
from gguf import GGMLQuantizationType

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target

METHODS = (
    *("pld", "lookahead", "sps", "eagle", "medusa"),
    *("falcon", "falcon:nodes=9,depth=3", "falcon:copy=2", "falcon:tree=dynamic"),
)


@pytest.fixture(scope="module")
def drafters(chat_target, save_drafters, tmp_path_factory):
    root = tmp_path_factory.mktemp("drafters")
    save_drafters(root, load_target(TargetRecipe(str(chat_target), kernels="torch")))
    return root


def check_every_method(target, draft_model, drafters):
    """Hold the ids of every method against plain decoding's, on prompts of several lengths."""
    kit = DraftingContext(target, draft_model)
    generator = torch.Generator().manual_seed(3)
    adaptive = [choose("adaptive").build(replace(kit, drafter=folder)) for folder in (None, str(drafters / "falcon"))]
    for length in (1, 7, 60):
        prompt = torch.randint(48, (length,), generator=generator).tolist()
        plain = complete(target.model, choose("ar").build(kit), prompt, Stop((), 48)).ids
        for method in METHODS:
            own = replace(kit, drafter=str(drafters / method.partition(":")[0]))
            assert complete(target.model, choose(method).build(own), prompt, Stop((), 48)).ids == plain, method
        for drafter in adaptive:  # one goes on learning from text to text
            assert complete(target.model, drafter, prompt, Stop((), 48)).ids == plain, drafter


@pytest.mark.parametrize(
    ("dtype", "quantize"), [("fp32", "none"), ("bf16", "none"), ("fp32", "bf16"), ("fp32", "int8"), ("fp32", "int4")]
)
def test_every_method_is_exact_on_every_kind_of_weights(chat_target, drafters, dtype, quantize):
    target = load_target(TargetRecipe(str(chat_target), dtype=dtype, quantize=quantize, kernels="native"))
    check_every_method(target, load_target(TargetRecipe(str(chat_target), kernels="torch")), drafters)


@pytest.mark.parametrize(
    ("quantize", "kind", "family"),
    [
        *(("file", kind, family) for kind in ("F16", "Q8_0", "Q5_1") for family in ("llama-tied", "qwen2")),
        *((quantize, "Q5_1", "qwen2") for quantize in ("bf16", "int8", "int4")),
    ],
)
def test_every_method_is_exact_on_a_files_own_blocks(
    quantize, kind, family, tiny_model, write_gguf, save_drafters, tmp_path, home
):
    model = tiny_model(family, seed=12, dtype=torch.float32, intermediate_size=64)
    path = write_gguf(tmp_path / "m.gguf", model, family.partition("-")[0], kind=GGMLQuantizationType[kind])
    plain = load_target(TargetRecipe(str(path), kernels="torch"))
    save_drafters(tmp_path, plain)
    check_every_method(load_target(TargetRecipe(str(path), quantize=quantize)), plain, tmp_path)
