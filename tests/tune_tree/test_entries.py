from types import SimpleNamespace

import pytest

from falcon_cli.drafters.falcon.dynamic import DynamicFalcon
from falcon_cli.drafters.rivals.autoregressive import Autoregressive
from falcon_cli.drafters.rivals.pld import PromptLookup
from falcon_cli.drafters.saved.checkpoint import save_drafter
from falcon_cli.drafters.saved.choice import default_tree_of
from falcon_cli.drafters.shared.copy_first import CopyFirst
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.recipe.tune import TuneTreeRecipe
from falcon_cli.target.load import load_target
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree, save_tree
from falcon_cli.tune_tree.entries import baselines_of, contenders_of, current_drafter, folders_of, load_entries
from falcon_cli.tune_tree.measure.validation import PLAIN
from falcon_cli.tune_tree.search.search import DYNAMIC


@pytest.fixture(scope="module")
def target(chat_target):
    return load_target(TargetRecipe(model=str(chat_target), kernels="torch"))


@pytest.fixture
def folder(home, tmp_path, target, tiny_network):
    """Drafters for k = 1 and 2."""
    for k in (1, 2):
        network = tiny_network(target.model.decoder, seed=k, k=k, mixer="linear")
        save_drafter(tmp_path / f"k{k}", network, None, target, {})
    return tmp_path


def test_folders_are_checked_before_anything_is_loaded(folder):
    assert folders_of(TuneTreeRecipe(drafters=(str(folder / "k2"),))) == [folder / "k2"]
    with pytest.raises(FalconError, match="nowhere"):
        folders_of(TuneTreeRecipe(drafters=(str(folder / "k2"), str(folder / "nowhere"))))


def test_drafters_come_by_k_in_the_order_given(folder, target):
    entries = load_entries([folder / "k2", folder / "k1"], target)
    assert [(k, entry.folder.name, entry.drafter.k) for k, entry in entries.items()] == [(2, "k2", 2), (1, "k1", 1)]
    assert len({entry.name for entry in entries.values()}) == 2
    with pytest.raises(UsageError, match="both have k = 2: name one drafter for each k"):
        load_entries([folder / "k2", folder / "k2"], target)


def test_baselines_are_what_is_used_without_the_tuning(folder, target):
    setting = Setting.of(target)
    (entry,) = load_entries([folder / "k2"], target).values()
    baselines = baselines_of(entry, setting)
    assert baselines.current == baselines.built_in == StoredTree(2, default_tree_of(entry.saved))
    assert (baselines.copies.shape, baselines.copies.tokens > 0) == (baselines.current.shape, True)
    tree = StoredTree(2, TreeShape.chain(1), {}, CopyPolicy(3, 5, TreeShape(())))
    save_tree(folder / "k2" / "tree.json", tree)
    given = baselines_of(entry, setting)
    assert (given.current, given.built_in, given.copies) == (tree, baselines.built_in, tree.copying)
    assert current_drafter(entry, given, target).shape == tree.shape
    save_tree(folder / "k2" / "tree.json", StoredTree(2, TreeShape(()), {"plain": True}))
    assert isinstance(current_drafter(entry, baselines_of(entry, setting), target), Autoregressive)


def test_every_contender_gets_its_drafter(folder, target):
    entries = load_entries([folder / "k2", folder / "k1"], target)
    tree = SimpleNamespace(k=1, shape=TreeShape.chain(2))
    policies = {
        "alone": SimpleNamespace(k=2, nodes=0, policy=CopyPolicy(2, 3, TreeShape(()))),
        "with a tree": SimpleNamespace(k=2, nodes=1, policy=CopyPolicy(2, 3, TreeShape.chain(1))),
    }
    search = SimpleNamespace(contenders={"tree": tree}, finalists=(tree,), copy_candidates=policies)
    contenders = contenders_of(search, entries, target)
    assert list(contenders) == [PLAIN, "tree", DYNAMIC, "alone", "with a tree"]
    assert isinstance(contenders[PLAIN], Autoregressive)
    assert (contenders["tree"].k, contenders["tree"].shape) == (1, tree.shape)
    assert isinstance(contenders[DYNAMIC], DynamicFalcon)
    assert isinstance(contenders["with a tree"], CopyFirst)
    assert isinstance(contenders["alone"], PromptLookup), "without a tree copies alone are proposed"
