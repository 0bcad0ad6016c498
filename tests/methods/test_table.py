"""The table of methods."""

from falcon_cli.bench.figures.summary import BASELINE
from falcon_cli.methods.table import METHODS


def test_the_table_holds_the_baseline_and_every_method_says_what_it_is():
    assert BASELINE in METHODS
    assert all(method.summary for method in METHODS.values())
