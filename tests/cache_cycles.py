"""Cycles of a cache: how many nodes are written, and which of them are kept."""

from hypothesis import strategies as st


def cycles(most):
    """Up to six cycles of at most so many nodes."""
    nodes = st.integers(1, most)
    return st.lists(
        nodes.flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))), max_size=6
    )
