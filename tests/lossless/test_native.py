"""Every method on native kernels: the ids of plain decoding on the same kernels, with no tie to excuse."""

import pytest
import torch

from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafter.checkpoint import save_drafter
from falcon_cli.methods import Kit, choose
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target

METHODS = ("pld", "lookahead", "sps", "falcon", "falcon:nodes=9,depth=3", "falcon:copy=2")


@pytest.fixture(scope="module")
def drafter(chat_target, tiny_network, tmp_path_factory):
    target = load_target(TargetRecipe(str(chat_target), kernels="torch"))
    folder = tmp_path_factory.mktemp("drafters") / "falcon"
    save_drafter(folder, tiny_network(target.model.decoder, k=2), None, target, {})
    return str(folder)


@pytest.mark.parametrize("quantize", ["none", "bf16", "int8", "int4"])
def test_every_method_is_exact_on_every_kind_of_weights(chat_target, drafter, quantize):
    target = load_target(TargetRecipe(str(chat_target), quantize=quantize, kernels="native"))
    kit = Kit(target, load_target(TargetRecipe(str(chat_target), kernels="torch")), drafter)
    generator = torch.Generator().manual_seed(3)
    for length in (1, 7, 60):
        prompt = torch.randint(200, (length,), generator=generator).tolist()
        plain = complete(target.model, choose("ar").build(kit), prompt, Stop((), 48)).ids
        for method in METHODS:
            assert complete(target.model, choose(method).build(kit), prompt, Stop((), 48)).ids == plain, method
