"""A model's own mask, held for the rows of a tree: against the function asked for each pair by itself."""

import pytest
import torch
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from falcon_cli.attention.masks import tree_mask
from falcon_cli.attention.reading import reading
from falcon_cli.attention.view import View
from falcon_cli.tree.shape import ancestors_of, depths_of

PARENTS = (0, 0, 0, 1, 2, 3)
CHUNK = 4
WINDOW = 5


def view(committed):
    return View(committed, torch.tensor(depths_of(PARENTS)), ancestors_of(PARENTS))


def pairwise(view, allowed):
    """The mask by asking for each pair of positions."""
    positions = view.position_T.tolist(), view.slot_position_S.tolist()
    own = torch.tensor([[allowed(query, key) for key in positions[1]] for query in positions[0]])
    return own & view.seen_TS


@pytest.mark.parametrize("committed", [0, 3, 4, 9, 30])
@pytest.mark.parametrize(
    ("function", "allowed"),
    [
        (sliding_window_causal_mask_function(WINDOW), lambda q, k: q - WINDOW < k <= q),
        (chunked_causal_mask_function(CHUNK, torch.zeros(1, dtype=int)), lambda q, k: q // CHUNK == k // CHUNK),
    ],
    ids=["window", "chunk"],
)
@pytest.mark.parametrize("use_vmap", [False, True])
def test_a_mask_by_position_holds_for_a_trees_rows(committed, function, allowed, use_vmap):
    now = view(committed)
    with reading(now):
        mask = tree_mask(mask_function=function, use_vmap=use_vmap)
    expected = pairwise(now, allowed)
    if mask is None:
        assert torch.equal(expected, now.seen_TS)
    else:
        assert torch.equal(mask[0, 0], expected)
        assert not torch.equal(mask[0, 0], now.seen_TS)


def test_where_the_model_adds_nothing_there_is_no_mask():
    with reading(view(9)):
        assert tree_mask(mask_function=causal_mask_function) is None
        assert tree_mask(mask_function=and_masks(causal_mask_function)) is None
        assert tree_mask(mask_function=sliding_window_causal_mask_function(99)) is None


def test_a_mask_outside_of_a_forward_is_refused():
    with pytest.raises(TypeError, match="view of a forward"):
        tree_mask(mask_function=causal_mask_function)
