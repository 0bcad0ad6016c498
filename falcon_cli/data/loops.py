"""Where a greedy text begins to repeat itself.

A loop is trivially predictable, so it flatters every drafter (docs/measuring.md). Figures are therefore given twice:
over all text, and over the text before its loop.
"""

from collections.abc import Sequence

import numpy as np


def loop_start(ids: Sequence[int], stretch: int = 32) -> int | None:
    """Find the first token of the first stretch that repeats the text before it with a fixed period.

        ids      a b c d b c d b c d b c d ...      period 3
        index    0 1 2 3 4                          with stretch 6: the loop starts at 4, the second `b`

    Args:
        ids: token ids of one answer, the prompt not included.
        stretch: shortest repetition that counts as a loop, in tokens (at least 1).

    Returns:
        The smallest i for which some period p in 1..i has ids[j] == ids[j - p] for every j in [i, i + stretch);
        None if there is none. Time is quadratic in the length, some 20 ms for 2,000 tokens.
    """
    if stretch < 1:
        raise ValueError(f"stretch must be at least 1, not {stretch}")
    tokens = np.asarray(ids, dtype=np.int64)
    repeated = np.zeros(len(tokens), dtype=np.int64)  # [p - 1]: how many tokens up to here repeat with period p
    for last in range(1, len(tokens)):
        matches = tokens[last - 1 :: -1] == tokens[last]  # [p - 1]: does the token p places back equal this one?
        repeated[:last] = (repeated[:last] + 1) * matches
        if repeated[:last].max() >= stretch:
            return last - stretch + 1
    return None
