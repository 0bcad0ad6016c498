from dataclasses import replace

import pytest

from falcon_cli.drafters.saved.tuned import drafter_name, find_tree, misfit, tuned_file
from falcon_cli.errors import FalconError
from falcon_cli.target.setting import Setting
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import StoredTree, save_tree

SETTING = Setting("a CPU", "tiny", "fp32", "native", 2)
ABOUT = {"weights_sha256": "0123456789abcdef" * 4}
TUNED, OWN = (StoredTree(2, TreeShape.chain(length)) for length in (3, 4))


@pytest.fixture(autouse=True)
def _own_home(home):
    """Tuned trees lie in a home of the test's own."""


def test_a_drafter_is_named_by_its_weights():
    assert drafter_name(ABOUT) == "0123456789ab"
    assert drafter_name({}) == ""


def test_a_tuned_tree_belongs_to_a_drafter_on_a_setting(home):
    file = tuned_file(ABOUT, SETTING)
    assert file == home / "trees" / f"0123456789ab-{SETTING.key}.json"
    assert tuned_file({"weights_sha256": "f" * 64}, SETTING) != file
    assert tuned_file(ABOUT, replace(SETTING, threads=1)) != file


def test_the_tree_tuned_here_goes_before_the_drafters_own(tmp_path):
    assert find_tree(tmp_path, ABOUT, 2, SETTING) is None
    save_tree(tmp_path / "tree.json", OWN)
    assert find_tree(tmp_path, ABOUT, 2, SETTING) == OWN
    tuned_file(ABOUT, SETTING).parent.mkdir(parents=True)
    save_tree(tuned_file(ABOUT, SETTING), TUNED)
    assert find_tree(tmp_path, ABOUT, 2, SETTING) == TUNED
    assert find_tree(tmp_path, ABOUT, 2, replace(SETTING, kernels="torch")) == OWN
    assert find_tree(tmp_path / "elsewhere", ABOUT, 2, SETTING) == TUNED


def test_a_malformed_tree_is_not_passed_over(tmp_path):
    save_tree(tmp_path / "tree.json", OWN)
    tuned_file(ABOUT, SETTING).parent.mkdir(parents=True)
    tuned_file(ABOUT, SETTING).write_text("{")
    with pytest.raises(FalconError, match="is no tree: not JSON"):
        find_tree(tmp_path, ABOUT, 2, SETTING)


MADE_BY = {"drafter": "0123456789ab", "target": "tiny", "weights": "fp32", "device": "a CPU"}


@pytest.mark.parametrize(
    ("made_by", "expected"),
    [
        ({}, None),
        (MADE_BY, None),
        ({"target": "tiny"}, None),
        (MADE_BY | {"drafter": "f" * 12}, "it was tuned for another drafter (ffffffffffff)"),
        (MADE_BY | {"target": "large"}, "it was tuned for large, this is tiny"),
        (MADE_BY | {"weights": "int4"}, "it was tuned for int4, this is fp32"),
        (MADE_BY | {"device": "a GPU"}, "it was tuned for a GPU, this is a CPU"),
    ],
)
def test_a_tree_says_what_it_is_not_meant_for(made_by, expected):
    assert misfit(replace(TUNED, made_by=made_by), ABOUT, SETTING) == expected
