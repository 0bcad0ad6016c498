"""What the documents point to is there, pages are short, and the tables they repeat are those of the code."""

import re
from dataclasses import fields
from datetime import date
from pathlib import Path

import pytest

from falcon_cli.data.datasets import DATASETS
from falcon_cli.methods.table import METHODS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
GUIDES = ("README.md", *(f"docs/{page}.md" for page in ("generate", "bench", "distill", "tune-tree")))
EXPLANATIONS = tuple(
    f"docs/{page}.md"
    for page in ("architecture", "methods", "measuring", "kernels", "training", "scaling", "data", "notation")
)
FOR_CONTRIBUTORS = ("CONTRIBUTING.md", "CHANGELOG.md", "docs/first-hour.md", "docs/extending.md")
GUIDE_WORDS, ALL_WORDS = 600, 9_500
GENERATED = ROOT / "docs" / "families.md"
BENCHMARKS, LAB = ROOT / "docs" / "benchmarks", ROOT / "docs" / "lab"
ENTRIES = sorted(path for path in LAB.iterdir() if path.name != "README.md")
CAMPAIGNS = sorted(path for path in BENCHMARKS.iterdir() if path.is_dir())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_main_pages_are_there():
    assert {*GUIDES, *EXPLANATIONS, *FOR_CONTRIBUTORS} <= {name(path) for path in PAGES}


def test_the_readme_leads_to_every_page():
    linked = {place.split("#")[0] for place in LINK.findall((ROOT / "README.md").read_text())}
    told = {page for page in map(name, PAGES) if page.count("/") <= 1} - {"README.md"}
    assert told <= linked


def words(path: Path) -> int:
    """Words with a letter or a digit: the frames of tables and help pages are none."""
    return len(re.findall(r"\S*\w\S*", path.read_text()))


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_is_short(page):
    assert words(ROOT / page) <= GUIDE_WORDS


def test_all_pages_together_are_short():
    left_out = (BENCHMARKS, LAB, GENERATED)
    counted = [path for path in PAGES if not any(path.is_relative_to(place) for place in left_out)]
    assert sum(map(words, counted)) <= ALL_WORDS, {name(path): words(path) for path in counted}


@pytest.mark.parametrize("path", ENTRIES, ids=name)
def test_an_entry_of_the_notebook_is_dated_and_says_where_and_why(path):
    dated = re.fullmatch(r"(\d{4}-\d{2}-\d{2})-[a-z0-9-]+\.md", path.name)
    assert dated
    date.fromisoformat(dated[1])
    title, head = path.read_text().split("\n\n")[:2]
    assert title.startswith("# ")
    assert re.findall(r"^- \*\*(\w+):\*\* ", head, re.MULTILINE) == ["Date", "Machine", "Asked"]
    assert dated[1] in head


def test_the_notebook_lists_its_entries():
    listed = re.findall(r"^- \[([\d-]+)\]\(([^)]+)\): \w", (LAB / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [(path.name[:10], path.name) for path in ENTRIES]


@pytest.mark.parametrize("folder", CAMPAIGNS, ids=name)
def test_a_campaign_is_a_readme_its_results_and_the_charts_that_are_shown(folder):
    held = {path.name for path in folder.rglob("*")}
    charts = {path.name for path in folder.rglob("*") if path.suffix in (".png", ".svg")}
    assert held - charts == {"README.md", "results.json"}
    shown = {Path(link).name for path in PAGES for link in LINK.findall(path.read_text()) if folder.name in link}
    assert charts <= shown


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


@pytest.mark.parametrize("path", [page for page in PAGES if "lab" not in page.parts], ids=name)
def test_files_that_a_page_names_are_there(path):
    named = re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|h|cpp|yaml|json|md))`", path.read_text())
    roots = (ROOT, ROOT / "falcon_cli", ROOT / "docs", path.parent)
    lost = [file for file in named if not any((root / file).exists() for root in roots)]
    assert [file for file in lost if not file.startswith(("runs/", "DIR/", "OUT/", "evaluation/"))] == []
