"""Greedy verification: the longest root path on which every drafted token is the target's own choice.

Shapes: T nodes, A accepted nodes (the root included).
"""

from collections.abc import Iterable
from math import isfinite

import torch

from falcon_cli.core import Draft, Scores, Verdict
from falcon_cli.errors import FalconError

NOT_FINITE = (
    "the target's logits are not finite numbers (NaN or infinity), so they choose no token: "
    "try --dtype fp32 or bf16, or another checkpoint"
)


def pick(scores: Scores) -> int:
    """The target's choice after the last row.

    Raises:
        FalconError: The scores are not finite numbers.
    """
    check_finite(scores, [-1])
    return int(scores.choice_T[-1])


def verify(draft: Draft, scores: Scores) -> Verdict:
    """Hold a draft against the target's choices after its nodes.

    A node is reached when its parent is and it agrees with the target's choice after that; the deepest reached node
    (the first of them, should there be several) ends the accepted path.

    Raises:
        FalconError: The scores of that path are not finite numbers.
    """
    choices, tokens = scores.choice_T.tolist(), draft.tokens_T.tolist()
    candidates = [True] * len(tokens) if draft.candidate_T is None else draft.candidate_T.tolist()
    path_to: dict[int, tuple[int, ...]] = {0: (0,)}
    for node, parent in enumerate(draft.parents):
        if node and parent in path_to and candidates[node] and tokens[node] == choices[parent]:
            path_to[node] = (*path_to[parent], node)
    path = max(path_to.values(), key=len)
    check_finite(scores, path)
    return Verdict(path, tuple(tokens[node] for node in path[1:]), choices[path[-1]], tuple(choices))


def check_finite(scores: Scores, rows: Iterable[int]) -> None:
    """Refuse to take a token from scores that are no numbers, as fp16 gives where it overflows.

    The chosen logit is NaN or infinite where all of torch's are NaN, or the best one is infinite. Native kernels may
    pass over NaN, quantised ones in their inputs too, so the features are looked at as well.

    Args:
        scores: The target's.
        rows: Rows of the logits, and of the features, that choose a token (-1 is the last one of either).

    Raises:
        FalconError: Some of them are not finite.
    """
    chosen = scores.best_T.tolist()
    sums = scores.features_TD.sum(-1, dtype=torch.float32).tolist()  # fp16's own would overflow
    if not all(isfinite(chosen[row]) and isfinite(sums[row]) for row in rows):
        raise FalconError(NOT_FINITE)
