"""One word, one thing: no two public names of types are alike, and tensor letters are those of docs/notation.md."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "falcon_cli").rglob("*.py"))
NOTATION = ROOT / "docs" / "notation.md"


def type_names(source: str) -> set[str]:
    """Public classes, and the type aliases and type variables at the top of a module."""
    tree = ast.parse(source)
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)}


def test_no_two_modules_give_one_name_to_two_types():
    places = defaultdict(list)
    for path in FILES:
        for name in type_names(path.read_text()):
            places[name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_the_reader_of_names_sees_classes_and_aliases():
    source = "Ids = list[int]\nT = TypeVar('T')\nLIMIT = 3\nclass Draft:\n    class Inner: ...\nclass _Own: ...\n"
    assert type_names(source) == {"Ids", "Draft", "Inner"}


LEGEND = re.compile(r"Shapes?: (.*?)(?:\n\n|\Z)", re.DOTALL)
ENTRY = re.compile(r"(?:^|[\s,])([A-Z])(?: = [^,]*?)? ([a-z][^,;.]*)")


def fixed_letters() -> dict[str, str]:
    return dict(re.findall(r"^- ([A-Z]): (.+)$", NOTATION.read_text(), re.MULTILINE))


def legend(source: str) -> dict[str, str]:
    """A module's own legend: letter → what it says the axis is."""
    found = LEGEND.search(ast.get_docstring(ast.parse(source)) or "")
    return dict(ENTRY.findall(" ".join(found[1].split()))) if found else {}


def stems(words: str) -> set[str]:
    return {word[:5] for word in re.findall(r"[a-z]{2,}", words.lower())} - {"of", "the", "that", "or", "and", "their"}


LEGENDS = {path: found for path in FILES if (found := legend(path.read_text()))}


@pytest.mark.parametrize("path", LEGENDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_letter_means_what_the_notation_says(path):
    fixed = fixed_letters()
    for letter, axis in LEGENDS[path].items():
        assert letter in fixed, f"{letter} is not in docs/notation.md: use a word"
        assert stems(axis) & stems(fixed[letter]), f"{letter} is {axis!r} here, {fixed[letter]!r} in docs/notation.md"


def test_the_reader_of_legends_sees_every_letter():
    source = '"""Title.\n\nShapes: B batch (1), T rows,\nC = U + T uncommitted slots.\n"""'
    assert legend(source) == {"B": "batch (1)", "T": "rows", "C": "uncommitted slots"}
    assert len(LEGENDS) > 25
    assert len(fixed_letters()) == 26
