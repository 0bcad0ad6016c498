"""What the documents point to is there, and the tables they repeat are those of the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from falcon_cli.data.datasets import DATASETS
from falcon_cli.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_main_pages_are_there():
    wanted = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    wanted |= {f"docs/{page}.md" for page in ("architecture", "notation", "methods", "measuring", "data")}
    assert wanted <= {name(path) for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_relative_links_lead_somewhere(path):
    for link in LINK.findall(CODE.sub("", path.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        place, _, anchor = link.partition("#")
        goal = path.parent / place if place else path
        assert goal.exists(), link
        assert not anchor or anchor in anchors(goal), link


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_page_names_a_place_on_somebodys_machine(path):
    assert re.findall(r"(?<![\w.])/(?:work|tmp|home|root|Users)/\S*", path.read_text()) == []


@pytest.mark.parametrize("method", METHODS)
def test_every_option_stands_in_the_methods_page_with_its_default(method):
    section = (ROOT / "docs" / "methods.md").read_text().split(f"\n## `{method}`")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE))
    assert told == {option.name: str(option.default).lower() for option in fields(METHODS[method].options)}


def test_methods_and_data_sets_are_all_described():
    methods, data = (ROOT / "docs" / "methods.md").read_text(), (ROOT / "docs" / "data.md").read_text()
    assert [method for method in METHODS if f"`{method}`" not in methods] == []
    assert [dataset for dataset in DATASETS if f"`{dataset}`" not in data] == []
