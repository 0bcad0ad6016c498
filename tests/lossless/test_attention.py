"""The kernels' attention: right, and the same bits whatever else is asked at the same time."""

import pytest
import torch

from falcon_cli.native.build import load_kernels
from tests.native.panels import in_panels

HEADS, GROUPS, SEGMENT = 6, 2, 256
CONTEXTS = (0, 13, SEGMENT - 5, SEGMENT, 2 * SEGMENT + 100)


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    load_kernels()


@pytest.fixture
def case():
    """Queries [T, N, H], keys and values [2, 1, G, S, H] and a tree's mask [T, T]: `case(rows, committed, size)`."""

    def made(rows, committed, size=24, dtype=torch.float32):
        drawn = torch.Generator().manual_seed(rows + committed)
        query = 2 * torch.randn(rows, HEADS, size, generator=drawn)
        held = torch.randn(2, 1, GROUPS, committed + rows, size, generator=drawn).to(dtype)
        seen = torch.rand(rows, rows, generator=drawn).lt(0.4).tril() | torch.eye(rows).bool()
        return query, held, seen

    return made


def attend(query, held, committed, seen):
    return torch.ops.falcon.attend(query, *in_panels(held), committed, seen, 0.3)


def exact(query, held, committed, seen):
    """In double precision."""
    rows = len(query)
    seen = torch.ones(rows, rows).tril().bool() if seen is None else seen
    whole = torch.cat([torch.ones(rows, committed, dtype=torch.bool), seen], 1)
    keys, values = (part[0].repeat_interleave(HEADS // GROUPS, 0).double() for part in held)
    scores = (0.3 * query.double().transpose(0, 1) @ keys.transpose(1, 2)).masked_fill(~whole, float("-inf"))
    return (scores.softmax(-1) @ values).transpose(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [8, 24, 64, 80])
@pytest.mark.parametrize("committed", CONTEXTS)
@pytest.mark.parametrize("rows", [1, 2, 7, 33, 65])
def test_it_is_softmax_in_double_precision(case, rows, committed, size, dtype):
    query, held, seen = case(rows, committed, size, dtype)
    for mask in (seen, None):
        given = attend(query, held, committed, mask).double()
        # fp32: scores of size 20 are known to 2⁻²⁴ · 20 · √128, and values of size 4 are weighed by their powers of e
        torch.testing.assert_close(given, exact(query, held, committed, mask), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4])
def test_scores_may_be_of_any_size(case, size):
    query, held, seen = case(3, 600)
    given = attend(size * query, held, 600, seen).double()
    # a score of size s is known to s · 2⁻²⁴ · 24 in fp32
    torch.testing.assert_close(given, exact(size * query, held, 600, seen), rtol=1e-5, atol=3e-5 * max(1.0, size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("committed", CONTEXTS)
def test_a_node_has_the_bits_of_its_path_alone(case, committed, dtype):
    """A tree of 33 nodes, and each node's ancestors as a chain behind the same text, row by row."""
    query, held, seen = case(33, committed, 64, dtype)
    tree = attend(query, held, committed, seen)
    for node in range(33):
        path = seen[node].nonzero()[:, 0]
        slots = torch.cat([torch.arange(committed), committed + path])
        alone = attend(query[node][None], held[..., slots, :], len(slots) - 1, None)
        assert torch.equal(alone[0], tree[node])


@pytest.mark.parametrize("committed", CONTEXTS)
def test_a_long_text_has_the_same_bits_in_any_pieces(case, committed):
    """Many rows are shared out by queries, few by the segments of their slots."""
    query, held, _ = case(300, committed, 64)
    whole = attend(query, held, committed, None)
    begin = 0
    for rows in (1, 2, 64, 65, 5, 163):
        end = begin + rows
        piece = attend(query[begin:end], held[..., : committed + end, :], committed + begin, None)
        assert torch.equal(piece, whole[begin:end])
        begin = end


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("committed", CONTEXTS)
def test_a_chain_has_the_same_bits_with_a_mask_and_without(case, rows, committed):
    query, held, _ = case(rows, committed, 64)
    chain = torch.ones(rows, rows).tril().bool()
    assert torch.equal(attend(query, held, committed, chain), attend(query, held, committed, None))


@pytest.mark.parametrize("committed", CONTEXTS)
def test_rows_may_see_what_comes_behind_them(case, committed):
    """A drafter's block sees itself whole."""
    query, held, _ = case(9, committed, 64)
    everything = torch.ones(9, 9).bool()
    whole = attend(query, held, committed, everything)
    torch.testing.assert_close(whole.double(), exact(query, held, committed, everything), rtol=1e-5, atol=5e-5)
    alone = attend(query[8:], held, committed + 8, None)
    assert torch.equal(alone[0], whole[8])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(case, threads):
    query, held, seen = case(9, 700, 64)
    before = torch.get_num_threads()
    expected = attend(query, held, 700, seen)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(attend(query, held, 700, seen), expected)
    finally:
        torch.set_num_threads(before)


def test_numbers_of_slots_that_a_node_does_not_see_do_not_reach_it(case):
    query, held, _ = case(12, 250)
    seen = torch.eye(12).bool()
    expected = attend(query, held, 250, seen)
    held[..., 255, :] = float("nan")
    given = attend(query, held, 250, seen)
    others = [node for node in range(12) if node != 5]
    assert torch.equal(given[others], expected[others])
    assert not given[5].isfinite().all()
