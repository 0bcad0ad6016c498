"""The forward that is being read now, for what transformers' models call without our arguments.

A model hands its forward's keyword arguments down to its attention, but not all classes do, and none hands them to the
function that builds its masks. So the `View` of a forward is kept here while it runs: one forward at a time a process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from falcon_cli.attention.view import Visibility


class Running:
    """What the running forward may see."""

    view: Visibility | None = None


NOW = Running()


@contextmanager
def reading(view: Visibility) -> Iterator[None]:
    """Read by this view until the block ends."""
    before = NOW.view
    NOW.view = view
    try:
        yield
    finally:
        NOW.view = before
