"""One word, one thing: no two public names of types are alike, and tensor letters are those of docs/notation.md."""

import ast
import re
from collections import defaultdict
from pathlib import Path

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
