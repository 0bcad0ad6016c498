"""Which drafter and which tree: what is given comes before what is shipped, tuned or built in."""

import pytest
import torch

from falcon_cli.drafters.falcon.propose import Falcon
from falcon_cli.drafters.rivals.medusa import Medusa
from falcon_cli.drafters.saved import choice
from falcon_cli.drafters.saved.checkpoint import load_drafter
from falcon_cli.drafters.saved.choice import default_tree_of, drafter_folder, drafter_of, tree_for
from falcon_cli.drafters.saved.tuned import tuned_file
from falcon_cli.errors import FalconError, UsageError
from falcon_cli.recipe.schema import TargetRecipe
from falcon_cli.target.load import load_target
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, default_tree, save_tree


@pytest.fixture(scope="module")
def target(chat_target):
    return load_target(TargetRecipe(str(chat_target), kernels="torch"))


@pytest.fixture(scope="module")
def root(save_drafters, target, tmp_path_factory):
    root = tmp_path_factory.mktemp("drafters")
    save_drafters(root, target)
    return root


@pytest.fixture(autouse=True)
def _own_home(home):
    """Tuned trees lie in a home of the test's own."""


@pytest.mark.parametrize(("method", "kind"), [("falcon", Falcon), ("eagle", Falcon), ("medusa", Medusa)])
def test_a_saved_drafter_goes_to_work_by_its_method(root, target, method, kind):
    saved = load_drafter(root / method, target)
    drafter = drafter_of(saved, target, default_tree_of(saved))
    assert type(drafter) is kind
    drafter.start(torch.tensor([5, 6, 7]), target.model.prefill(torch.tensor([5, 6, 7])))
    assert len(drafter.propose(9, 99)) == len(drafter.shape)


def test_the_built_in_tree_is_no_deeper_than_there_are_heads(root, target):
    saved = load_drafter(root / "medusa", target)
    assert default_tree_of(saved).height == saved.network.k == 3
    assert default_tree_of(load_drafter(root / "falcon", target)) == default_tree(2)


def test_the_folder_given_comes_before_the_one_shipped(root, monkeypatch):
    monkeypatch.setattr(choice, "shipped", lambda name, method: root / method if name == "known" else None)
    assert drafter_folder(None, "known", "eagle") == root / "eagle"
    assert drafter_folder(str(root / "falcon"), "known", "falcon") == root / "falcon"
    with pytest.raises(UsageError, match="eagle needs --drafter for other: the folder of a drafter made by falcon"):
        drafter_folder(None, "other", "eagle")


def test_another_method_s_folder_counts_only_where_nothing_is_shipped(root, monkeypatch):
    monkeypatch.setattr(choice, "shipped", lambda name, method: root / method if name == "known" else None)
    given = str(root / "falcon")
    assert drafter_folder(given, "known", "eagle", strict=False) == root / "eagle"
    assert drafter_folder(given, "known", "eagle") == root / "falcon"
    assert drafter_folder(given, "other", "eagle", strict=False) == root / "falcon"
    with pytest.raises(FalconError, match="no drafter at"):
        drafter_folder(str(root / "nowhere"), "known", "eagle", strict=False)


def test_the_tree_tuned_here_is_taken_whole_as_a_chain_or_as_a_budget(root, target):
    saved = load_drafter(root / "falcon", target)
    folder = root / "falcon"
    assert tree_for("auto", folder, saved, target).shape == default_tree(2)
    tuned = TreeShape.from_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)])
    kept = tuned_file(saved.about, Setting.of(target))
    kept.parent.mkdir(parents=True)
    save_tree(kept, StoredTree(2, tuned, {}))
    assert tree_for("auto", folder, saved, target).shape == tuned
    assert tree_for("chain", folder, saved, target).shape == TreeShape.chain(3)
    budget = tree_for("dynamic", folder, saved, target)
    assert (budget.shape, budget.dynamic) == (tuned, True)


def test_where_plain_decoding_is_faster_a_chain_asked_for_is_drafted_all_the_same(root, target):
    saved = load_drafter(root / "eagle", target)
    kept = tuned_file(saved.about, Setting.of(target))
    kept.parent.mkdir(parents=True)
    save_tree(kept, StoredTree(1, TreeShape(()), {"plain": True}))
    assert tree_for("auto", root / "eagle", saved, target).plain
    assert tree_for("chain", root / "eagle", saved, target).shape == TreeShape.chain(default_tree(1).height)


def test_a_file_tuned_for_another_drafter_is_used_with_a_warning(root, target, tmp_path, capsys):
    saved = load_drafter(root / "falcon", target)
    save_tree(tmp_path / "tree.json", StoredTree(2, TreeShape.chain(2), {"drafter": "another"}))
    assert tree_for(str(tmp_path / "tree.json"), root / "falcon", saved, target).shape == TreeShape.chain(2)
    assert "it was tuned for another drafter (another); falcon tune-tree makes one" in capsys.readouterr().err
