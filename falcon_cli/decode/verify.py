"""Greedy verification: the longest root path on which every drafted token is the target's own choice.

Shapes: T nodes, A accepted nodes (the root included), V vocabulary, B blocks of the vocabulary, W tokens of a block.
"""

from math import gcd

import torch
from torch import Tensor

from falcon_cli.core import Draft, Verdict


def pick(logits_TV: Tensor) -> int:
    """The target's choice after the last row."""
    return int(best(logits_TV[-1:]))


def verify(draft: Draft, logits_TV: Tensor) -> Verdict:
    """Hold a draft against the target's logits of its nodes.

    A node is reached when its parent is and it agrees with the target's choice after that; the deepest reached node
    (the first of them, should there be several) ends the accepted path.
    """
    choices, tokens = best(logits_TV).tolist(), draft.tokens_T.tolist()
    candidates = [True] * len(tokens) if draft.candidate_T is None else draft.candidate_T.tolist()
    path_to: dict[int, tuple[int, ...]] = {0: (0,)}
    for node, parent in enumerate(draft.parents):
        if node and parent in path_to and candidates[node] and tokens[node] == choices[parent]:
            path_to[node] = (*path_to[parent], node)
    path = max(path_to.values(), key=len)
    return Verdict(path, tuple(tokens[node] for node in path[1:]), choices[path[-1]], tuple(choices))


def best(logits_TV: Tensor) -> Tensor:
    """The likeliest token [T] of each row, of equals the first.

    On CPUs torch's argmax looks at one number after the other, its amax at vectors of them: so the best block first.
    """
    vocabulary = logits_TV.shape[-1]
    blocks_TBW = logits_TV.unflatten(-1, (-1, gcd(vocabulary, 256)))
    block_T = blocks_TBW.amax(-1).argmax(-1)
    best_TW = blocks_TBW[torch.arange(len(block_T), device=block_T.device), block_T]
    return block_T * best_TW.shape[-1] + best_TW.argmax(-1)
