"""The figures on the pages are those of the campaign's results.json."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("tables", Path(__file__).with_name("tables.py"))
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

SHOWING = {path: path.read_text() for path in tables.PAGES if "<!-- tables:" in path.read_text()}


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: str(path.relative_to(tables.ROOT)))
def test_a_page_shows_the_figures_of_the_results(path):
    assert tables.filled(SHOWING[path]) == SHOWING[path], "run `make tables`"


def test_every_table_stands_in_one_place():
    shown = [found[1] for text in SHOWING.values() for found in tables.REGION.findall(text)]
    assert sorted(shown) == sorted(tables.TABLES)


def test_every_mark_belongs_to_a_region():
    for path, text in SHOWING.items():
        regions = len(tables.REGION.findall(text))
        assert text.count("<!-- tables:") == text.count("<!-- /tables -->") == regions, path


def test_a_changed_figure_is_written_over_and_the_text_around_it_stays():
    text = "before\n\n<!-- tables: engines -->\n\n| fp32 | 99x |\n\n<!-- /tables -->\n\nafter\n"
    assert tables.filled(text) == text.replace("| fp32 | 99x |", tables.TABLES["engines"]())


def test_an_unknown_table_is_refused():
    with pytest.raises(KeyError, match="speeds"):
        tables.filled("<!-- tables: speeds -->\n<!-- /tables -->")
