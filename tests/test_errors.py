"""Errors of others in one line."""

import pytest

from falcon_cli.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such key"), "no such key"),
        (OSError("  two\nlines  "), "two"),
        (RuntimeError(), "RuntimeError"),
        (KeyError(" "), "' '"),
    ],
)
def test_an_error_is_told_by_its_first_line(error, line):
    assert first_line(error) == line
