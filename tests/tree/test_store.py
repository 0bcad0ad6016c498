import json
from dataclasses import replace

import pytest

from falcon_cli.errors import FalconError
from falcon_cli.tree.shape import TreeShape
from falcon_cli.tree.store import CopyPolicy, StoredTree, default_tree, load_tree, ranked, save_tree

SHAPE = TreeShape.from_paths([(0,), (1,), (0, 0)])


def test_what_was_saved_is_loaded(tmp_path):
    tree = StoredTree(2, SHAPE, {"device": "cpu"})
    save_tree(tmp_path / "tree.json", tree)
    assert load_tree(tmp_path / "tree.json", 2) == tree


def test_paths_may_stand_in_any_order_and_made_by_may_lack(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"k": 2, "paths": [[0, 0], [1], [0]]}')
    assert load_tree(path, 2) == StoredTree(2, SHAPE)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_bare_paths_are_a_tree_for_any_k(tmp_path, k):
    path = tmp_path / "medusa.json"
    path.write_text("[[0, 0], [1], [0]]")
    assert load_tree(path, k) == StoredTree(k, SHAPE, {"from": "medusa.json"})


@pytest.mark.parametrize("reference", ["choices.py", "choices.py:mc_sim_7b_63"])
def test_a_list_of_paths_in_python_is_a_tree_for_any_k(tmp_path, reference):
    (tmp_path / "choices.py").write_text("mc_sim_7b_63 = [(0,), (0, 0), (1,)]")
    tree = load_tree(tmp_path / reference, 3)
    assert tree == StoredTree(3, SHAPE, {"from": "choices.py:mc_sim_7b_63"})
    save_tree(tmp_path / "tree.json", tree)
    assert load_tree(tmp_path / "tree.json", 3) == tree


def test_paths_of_python_are_checked_as_all_are(tmp_path):
    path = tmp_path / "choices.py"
    path.write_text("wide = [[0], [7]]\nbroken = [[0, 0]]\nempty = []")
    with pytest.raises(FalconError, match=f"{path}:wide: tree: path .* asks for rank 7"):
        load_tree(tmp_path / "choices.py:wide", 1, max_rank=5)
    with pytest.raises(FalconError, match="has no parent"):
        load_tree(tmp_path / "choices.py:broken", 1)
    with pytest.raises(FalconError, match=f"{path}:empty has no paths"):
        load_tree(tmp_path / "choices.py:empty", 1)


def test_a_plain_tree_is_saved_and_loaded(tmp_path):
    plain = StoredTree(2, TreeShape(()), {"plain": True, "device": "cpu"})
    save_tree(tmp_path / "tree.json", plain)
    loaded = load_tree(tmp_path / "tree.json", 2)
    assert loaded == plain
    assert loaded.plain
    assert not StoredTree(2, SHAPE).plain


def test_no_paths_are_a_plain_tree_where_they_are_said_to_be(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"k": 3, "paths": [], "made_by": {"plain": true}}')
    assert load_tree(path, 3) == StoredTree(3, TreeShape(()), {"plain": True})


@pytest.mark.parametrize("beside", [SHAPE, TreeShape(())])
def test_a_tree_may_tell_how_to_copy(tmp_path, beside):
    tree = StoredTree(2, TreeShape.chain(2), {"by": "me"}, CopyPolicy(2, 3, beside))
    save_tree(tmp_path / "tree.json", tree)
    assert load_tree(tmp_path / "tree.json", 2) == tree
    assert tree.beside_copies == StoredTree(2, beside)
    alone = replace(tree, copying=None)
    assert alone.beside_copies == alone


@pytest.mark.parametrize(
    "copying",
    [
        7,
        {"ngram": 0, "tokens": 3, "paths": [[0]]},
        {"ngram": 2, "tokens": -1, "paths": [[0]]},
        {"ngram": 2, "tokens": True, "paths": [[0]]},
        {"ngram": "2", "tokens": 3, "paths": [[0]]},
        {"ngram": 2, "tokens": 3},
        {"ngram": 2, "tokens": 3, "paths": [0]},
    ],
)
def test_malformed_copying_is_one_line(tmp_path, copying):
    (tmp_path / "tree.json").write_text(json.dumps({"k": 2, "paths": [[0]], "copying": copying}))
    with pytest.raises(FalconError, match=r"tree.json: copying wants \{"):
        load_tree(tmp_path / "tree.json", 2)


def test_the_tree_beside_copies_is_checked_like_any_other(tmp_path):
    copying = {"ngram": 2, "tokens": 3, "paths": [[0], [0, 1, 0]]}
    (tmp_path / "tree.json").write_text(json.dumps({"k": 2, "paths": [[0]], "copying": copying}))
    with pytest.raises(FalconError, match=r"tree.json: tree: path \[0, 1, 0\] has no parent"):
        load_tree(tmp_path / "tree.json", 2)


@pytest.mark.parametrize(("made_by", "dynamic"), [({}, False), ({"dynamic": True}, True), ({"dynamic": "yes"}, False)])
def test_a_tree_may_be_but_a_budget(tmp_path, made_by, dynamic):
    save_tree(tmp_path / "tree.json", StoredTree(2, SHAPE, made_by))
    assert load_tree(tmp_path / "tree.json", 2).dynamic == dynamic


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is no tree: not JSON"),
        ("[" * 100_000, "is no tree: not JSON"),
        ("7", "is no tree: it wants"),
        ([], r"has no paths: give at least \[0\]"),
        ([0], "is no tree: it wants"),
        ([[0], [0, 1, 0]], r"tree: path \[0, 1, 0\] has no parent"),
        ([["0"], [0]], "must hold whole ranks"),
        ({"k": 2}, "is no tree: it wants"),
        ({"k": 2, "paths": [0]}, "is no tree: it wants"),
        ({"paths": [[0]]}, "is a tree for k = None, the drafter has k = 2"),
        ({"k": 3, "paths": [[0]]}, "is a tree for k = 3, the drafter has k = 2: tune one with falcon tune-tree"),
        ({"k": 2, "paths": []}, r"has no paths: give at least \[0\]"),
        ({"k": 2, "paths": [], "made_by": {"plain": "yes"}}, "has no paths"),
        ({"k": 2, "paths": [], "made_by": "plain"}, "has no paths"),
        ({"k": 3, "paths": [], "made_by": {"plain": True}}, "is a tree for k = 3, the drafter has k = 2"),
        ({"k": 2, "paths": [[0], [0]]}, r"tree: path \[0\] stands twice"),
        ({"k": 2, "paths": [[0, 1]]}, r"tree: path \[0, 1\] has no parent"),
        ({"k": 2, "paths": [[]]}, "tree: an empty path"),
        ({"k": 2, "paths": [["0"]]}, "must hold whole ranks"),
        ({"k": 2, "paths": [[-1]]}, "must hold whole ranks"),
        ({"k": 2, "paths": [[7]]}, "asks for rank 7, but the drafter gives 5 choices"),
    ],
)
def test_what_is_no_tree_is_refused_in_one_line(tmp_path, document, message):
    path = tmp_path / "tree.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(FalconError, match=message) as caught:
        load_tree(path, 2, max_rank=5)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FalconError, match=r"cannot read the tree .*nowhere.json: No such file"):
        load_tree(tmp_path / "nowhere.json", 2)


@pytest.mark.parametrize("k", range(1, 7))
def test_the_default_tree_is_sane(k):
    shape = default_tree(k)
    assert len(shape) == 25
    assert shape.height % k == 0 or shape.height < k * 2
    assert {(0,), (1,), (0, 0)} <= set(shape.paths)
    by_rank = [sum(path[0] == rank for path in shape.paths) for rank in range(4)]
    assert by_rank == sorted(by_rank, reverse=True)


def test_a_smaller_default_tree_is_part_of_a_larger_one():
    assert set(default_tree(2, 6).paths) < set(default_tree(2, 12).paths)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_beginning_of_a_ranked_tree_is_a_tree(k):
    shape = TreeShape.from_paths([(2,), (0,), (1,), (0, 0), (2, 0), (0, 1), (0, 0, 3), (0, 0, 3, 0)])
    order = [scored.path for scored in ranked(shape, k)]
    assert sorted(order) == sorted(shape.paths)
    for nodes in range(len(order) + 1):
        TreeShape.from_paths(order[:nodes])


def test_a_ranked_default_tree_is_the_smaller_ones_one_after_the_other():
    order = [scored.path for scored in ranked(default_tree(2, 24), 2)]
    assert TreeShape.from_paths(order[:6]) == default_tree(2, 6)
    assert ranked(TreeShape(()), 2) == []
