"""The kernels, compiled once and kept in the user's own cache."""

import pytest

from falcon_cli.native.build import load_kernels


@pytest.fixture(scope="session", autouse=True)
def _kernels():
    load_kernels()
