import pytest
import torch

from falcon_cli.attention.reading import NOW, reading
from falcon_cli.attention.view import View


def view(committed):
    return View(committed, torch.arange(1), None)


def test_the_view_of_a_forward_ends_with_it_even_when_it_fails():
    def fail():
        with reading(view(1)):
            assert NOW.view is not None
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert NOW.view is None


def test_a_forward_within_a_forward_gives_the_view_back():
    """A drafter with a model of its own reads while nothing else does; still, nothing is lost."""
    outer, inner = view(1), view(2)
    with reading(outer):
        with reading(inner):
            assert NOW.view is inner
        assert NOW.view is outer
