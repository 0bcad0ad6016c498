"""Adaptive drafting is built of what there is: a drafter or none, exact kernels or others."""

import json
from types import SimpleNamespace

import pytest
import torch

from falcon_cli.costs.table import CostTable, DraftCost, load_costs
from falcon_cli.decode.loop import complete
from falcon_cli.decode.stop import Stop
from falcon_cli.drafters.adaptive.drafter import Adaptive
from falcon_cli.drafters.rivals.pld import PldOptions, PromptLookup
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.drafters.saved.tuned import tuned_file
from falcon_cli.drafters.shared.copy_first import CopyFirst
from falcon_cli.methods.adaptive import cycle_costs
from falcon_cli.methods.context import DraftingContext
from falcon_cli.methods.grammar import choose
from falcon_cli.native.build import load_kernels
from falcon_cli.native.swap import swap_model
from falcon_cli.sources import home
from falcon_cli.target.load import LoadedTarget
from falcon_cli.target.model import TargetModel
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, default_tree, save_tree

PROMPT = [3, 14, 15, 9, 2, 6, 14, 15]


@pytest.fixture
def context(home, tiny_model, tiny_network, tmp_path):
    """A target on the kernels, or on torch's operators, and a drafter of its own, k = 2."""
    load_kernels()

    def built(native=True, drafter=True):
        words = {f"word{number}": number for number in range(48)}
        tokenizer = SimpleNamespace(get_vocab=lambda: words, get_added_vocab=dict)
        model = tiny_model("llama-gqa", 4, dtype=torch.float32)
        network = tiny_network(model.get_decoder(), k=2, mixer="linear").float()
        layers = swap_model(model, "int8") if native else None
        target = LoadedTarget("tiny", TargetModel(model, native=layers), tokenizer, frozenset(), "fp32")
        save_drafter(tmp_path / "drafter", network, None, target, {})
        return DraftingContext(target, drafter=str(tmp_path / "drafter") if drafter else None)

    return built


def test_on_exact_kernels_it_chooses_in_each_cycle(context):
    kit = context()
    drafter = choose("adaptive").build(kit)
    assert isinstance(drafter, Adaptive)
    assert drafter.tree.shape == default_tree(2)
    plain = complete(kit.target.model, choose("ar").build(kit), PROMPT, Stop((), 40)).ids
    assert complete(kit.target.model, drafter, PROMPT, Stop((), 40)).ids == plain
    assert sum(drafter.chosen.values()) > 0


def test_without_a_drafter_it_copies_or_does_not(context):
    drafter = choose("adaptive").build(context(drafter=False))
    assert isinstance(drafter, Adaptive)
    assert drafter.tree is None


def test_elsewhere_drafts_depend_on_no_clock(context):
    drafter = choose("adaptive").build(context(native=False))
    assert isinstance(drafter, CopyFirst)
    assert drafter.tree.shape == default_tree(2)
    lookup = choose("adaptive").build(context(native=False, drafter=False))
    assert isinstance(lookup, PromptLookup)
    assert lookup.options == PldOptions()


def test_costs_are_measured_once(context, monkeypatch):
    kit = context()
    choose("adaptive").build(kit)
    (file,) = (home() / "costs").glob("probe-*.json")
    table = load_costs(file)
    assert sorted(table.verify) == [64, kit.target.model.context_limit - 33]
    assert all(ms > 0 for row in table.verify.values() for ms in row.values())
    assert kit.target.model.cache.length == 0

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("falcon_cli.costs.probe.draft_costs", never)
    choose("adaptive").build(kit)
    file.write_text("{")
    with pytest.raises(AssertionError, match="measured again"):
        choose("adaptive").build(kit)


def test_a_tree_that_is_given_or_was_tuned_here_is_the_largest(context, tmp_path):
    kit = context()
    drafter = choose("adaptive").build(kit)
    save_tree(tmp_path / "own.json", StoredTree(2, TreeShape.chain(6)))
    assert choose(f"adaptive:tree={tmp_path / 'own.json'}").build(kit).tree.shape == TreeShape.chain(6)
    save_tree(tmp_path / "drafter" / "tree.json", StoredTree(2, TreeShape.chain(5)))
    assert choose("adaptive:tree=chain").build(kit).tree.shape == TreeShape.chain(5), (
        "as high as the drafter's own tree"
    )
    about = json.loads((tmp_path / "drafter" / "config.json").read_text())
    tuned = tuned_file(about, Setting.of(kit.target))
    tuned.parent.mkdir(parents=True)
    save_tree(tuned, StoredTree(2, TreeShape.chain(3)))
    assert choose("adaptive").build(kit).tree.shape == TreeShape.chain(3)
    save_tree(tuned, StoredTree(2, TreeShape(()), {"plain": True}))
    assert choose("adaptive").build(kit).tree.shape == drafter.tree.shape


def test_a_tree_costs_what_its_passes_cost():
    table = CostTable("here", "tiny", "int8", {64: {1: 10.0, 9: 18.0}}, {2: DraftCost(1.0, 2.0, 0.0, 0.0, 0.0)}, 0.5)
    tree = SimpleNamespace(shape=TreeShape.chain(4), k=2, chained=False, part=TreeShape.chain)
    costs = cycle_costs(table, tree)
    assert costs.verify_ms(5, 64) == pytest.approx(14.5)
    assert costs.draft_ms == {1: 1.0, 2: 1.0, 3: 3.0, 4: 3.0}
    assert cycle_costs(table, None).draft_ms == {}
