import pytest

from falcon_cli.errors import FalconError
from falcon_cli.tree.foreign import is_paths, is_python, read_python

CHOICES = """
import os
from somewhere import everything

os.makedirs("made")
LIMIT = 63
NAMES = ["a", "b"]
built = [[rank] for rank in range(3)]
mc_sim_7b_63 = [[0], [0, 0], [1]]
vicuna: list = [(1,), (0,)]
empty = []

def chain():
    hidden = [[0]]
    return hidden
"""


@pytest.fixture
def choices(tmp_path, monkeypatch):
    """A Python file as other tools have it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "choices.py").write_text(CHOICES)
    return tmp_path / "choices.py"


def named(choices, name):
    return choices.with_name(f"choices.py:{name}")


def test_a_named_list_is_read_and_nothing_run(choices):
    assert read_python(named(choices, "mc_sim_7b_63")) == ([[0], [0, 0], [1]], "choices.py:mc_sim_7b_63")
    assert read_python(named(choices, "vicuna")) == ([(1,), (0,)], "choices.py:vicuna")
    assert [path.name for path in choices.parent.iterdir()] == ["choices.py"]


def test_a_lone_list_needs_no_name(choices):
    choices.write_text("k = 3\nnames = ['a']\nnone = []\nwide = [[0]]\nwide = [[0], [1]]\n")
    assert read_python(choices) == ([[0], [1]], "choices.py:wide")
    assert read_python(named(choices, "")) == ([[0], [1]], "choices.py:wide")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mc_sim_7b_36", r"has no list mc_sim_7b_36 \(did you mean mc_sim_7b_63\?\): it holds mc_sim_7b_63, vicuna$"),
        ("hidden", "has no list hidden: it holds mc_sim_7b_63, vicuna$"),
        ("LIMIT", r"LIMIT in .*choices.py is no list of paths: a tree is written \[\[0\], \[1\], \[0, 0\]\]"),
        ("NAMES", "NAMES in .*choices.py is no list of paths"),
        ("built", "built in .*choices.py is no list of paths"),
    ],
)
def test_what_is_no_list_of_paths_is_named(choices, name, message):
    with pytest.raises(FalconError, match=message):
        read_python(named(choices, name))


def test_several_lists_want_a_name(choices):
    with pytest.raises(
        FalconError, match=r"several lists \(mc_sim_7b_63, vicuna\): name one, as choices.py:mc_sim_7b_63"
    ):
        read_python(choices)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("x = 1", None, r"holds no tree: it wants a line such as NAME = \[\[0\]"),
        ("x = 1", "y", "has no list y: it holds no list of paths"),
        ("x = [[0]", None, "is no tree: not Python"),
        ("x = '\0'", None, "is no tree: not Python"),
        (b"x = '\xff'", None, "is no tree: not Python"),
        ("x = " + "[" * 90 + "]" * 90, None, "holds no tree"),
        ("x = " + "[" * 9000 + "]" * 9000, None, "is no tree: not Python"),
        ("x = [[0], [True]]", "x", "x in .* is no list of paths"),
        ("x = [[0], [0.0]]", "x", "x in .* is no list of paths"),
        ("x = [[0], 1]", "x", "x in .* is no list of paths"),
        ("x = {0: [0]}", "x", "x in .* is no list of paths"),
    ],
)
def test_a_file_without_trees_is_refused_in_one_line(choices, source, name, message):
    choices.write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(FalconError, match=message) as caught:
        read_python(choices if name is None else named(choices, name))
    assert str(choices) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FalconError, match=r"cannot read the tree .*nowhere\.py: No such file"):
        read_python(tmp_path / "nowhere.py:mc_sim_7b_63")


@pytest.mark.parametrize(
    ("reference", "python"),
    [
        ("choices.py", True),
        ("choices.py:a", True),
        ("tree.json", False),
        ("a.py/tree.json", False),
        ("x:y.json", False),
    ],
)
def test_python_is_known_by_its_name(tmp_path, reference, python):
    assert is_python(tmp_path / reference) == python


@pytest.mark.parametrize(
    ("value", "paths"),
    [([[0], (0, 1)], True), (((0,),), True), ([], True), ([0], False), ("00", False), ([["0"]], False), (None, False)],
)
def test_paths_are_lists_of_lists_of_whole_numbers(value, paths):
    assert is_paths(value) == paths
