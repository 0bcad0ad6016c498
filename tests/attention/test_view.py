import torch
from hypothesis import given
from hypothesis import strategies as st

from falcon_cli.attention.view import View
from falcon_cli.tree.shape import ancestors_of, depths_of


@st.composite
def visibilities(draw):
    """Committed tokens, a random tree or a chain, and a sliding window or none."""
    committed, rows = draw(st.integers(0, 9)), draw(st.integers(1, 9))
    window = draw(st.none() | st.integers(1, 20))
    if draw(st.booleans()):
        return committed, tuple(range(rows)), None, window
    parents = (0, *(draw(st.integers(0, node - 1)) for node in range(1, rows)))
    return committed, depths_of(parents), parents, window


def sees(committed, depths, parents, window, row, slot):
    """May this row see this slot? By the words of the docstring."""
    slot_position = slot if slot < committed else committed + depths[slot - committed]
    if window is not None and committed + depths[row] - slot_position >= window:
        return False
    if slot < committed:
        return True
    node = slot - committed
    if parents is None:
        return node <= row
    walker = row
    while walker != node and walker != 0:
        walker = parents[walker]
    return walker == node


@given(visibilities())
def test_a_row_sees_committed_tokens_and_its_ancestors_within_the_window(visibility):
    committed, depths, parents, window = visibility
    ancestors_TT = None if parents is None else ancestors_of(parents)
    view = View(committed, torch.tensor(depths), ancestors_TT)
    mask_TS = view.mask_TS(torch.float64, window)
    slots = committed + len(depths)
    expected = [[sees(*visibility, row, slot) for slot in range(slots)] for row in range(len(depths))]
    if mask_TS is None:
        assert all(map(all, expected))
        return
    assert set(mask_TS.unique().tolist()) <= {0.0, float("-inf")}
    assert (mask_TS == 0).tolist() == expected


def test_positions_are_depths_behind_the_committed_tokens():
    view = View(5, torch.tensor([0, 1, 1, 2]), None)
    assert view.position_T.tolist() == [5, 6, 6, 7]


def test_a_mask_is_built_once_a_forward_and_once_for_each_window_and_dtype():
    view = View(5, torch.tensor([0, 1, 1]), ancestors_of((0, 0, 0)))
    full = view.mask_TS(torch.float32)
    assert view.mask_TS(torch.float32) is full
    windowed = view.mask_TS(torch.float32, 3)
    assert view.mask_TS(torch.float32, 3) is windowed
    assert not torch.equal(full, windowed)
    assert view.mask_TS(torch.bfloat16).dtype == torch.bfloat16


def test_one_row_that_sees_every_slot_needs_no_mask():
    assert View(5, torch.tensor([0]), None).mask_TS(torch.float32) is None
    assert View(5, torch.tensor([0]), ancestors_of((0,))).mask_TS(torch.float32, 6) is None
    assert View(5, torch.tensor([0]), None).mask_TS(torch.float32, 5) is not None


EARLIER_U = torch.tensor([0, 1, 0, 1])
"""Two rows of two positions that a pass before has left uncommitted; the forward has a row under the second of them."""
SEEN_TC = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]).bool()


def test_rows_of_earlier_forwards_lie_between():
    view = View(3, torch.tensor([2, 3]), SEEN_TC, EARLIER_U)
    assert view.position_T.tolist() == [5, 6]
    seen_TS = view.mask_TS(torch.float32) == 0
    assert seen_TS.tolist() == [[True] * 3 + SEEN_TC[0].tolist()] * 2


def test_a_window_counts_the_positions_of_earlier_rows():
    seen_TS = View(3, torch.tensor([2, 3]), SEEN_TC, EARLIER_U).mask_TS(torch.float32, 3) == 0
    assert seen_TS.tolist() == [
        [False] * 3 + [False, False, True, True, True, True],  # position 5 sees 3, 4, 5 and, of its block, 6
        [False] * 3 + [False, False, False, True, True, True],
    ]


def test_one_row_after_earlier_ones_needs_a_mask():
    mask_TS = View(2, torch.tensor([1]), torch.tensor([[False, True, True]]), torch.tensor([0, 0])).mask_TS(
        torch.float32
    )
    assert (mask_TS == 0).tolist() == [[True, True, False, True, True]]
