"""Drafts read branch by branch, for models whose attention takes no tree: no positions, or a mask of their own making.

A draft of T nodes is read as its longest paths, each a chain behind the committed tokens, by the class's own attention:

    root ── a ── c        path 1: root a c        path 2: root b
         └─ b             rows of root, a, c, then b are kept, each in its node's slot

So every node's logits are those of its path alone, whatever the class computes; a chain needs one forward.

Shapes: T nodes, D hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from falcon_cli.kv_cache import SlotCache
from falcon_cli.target.forward.own import CausalForward


def read_branches(
    forward: CausalForward, tokens_T: Tensor, ancestors_TT: Tensor, cache: SlotCache
) -> tuple[Tensor, Tensor]:
    """Logits [T, V] and features [T, D] of the nodes, whose keys and values are written behind the committed ones."""
    begin = cache.length
    logits: dict[int, Tensor] = {}
    features: dict[int, Tensor] = {}
    rows: dict[int, list[Tensor]] = {}
    for path in longest_paths(ancestors_TT):
        logits_PV, features_PD = forward(tokens_T[list(path)], cache)
        for place, node in enumerate(path):
            if node not in logits:
                logits[node], features[node] = logits_PV[place], features_PD[place]
                rows[node] = [tensor[..., begin + place, :].clone() for tensor in cache.tensors()]
    for node, held in rows.items():
        for tensor, row in zip(cache.tensors(), held, strict=True):
            tensor[..., begin + node, :] = row
    nodes = range(len(tokens_T))
    return torch.stack([logits[node] for node in nodes]), torch.stack([features[node] for node in nodes])


def longest_paths(ancestors_TT: Tensor) -> list[tuple[int, ...]]:
    """What each row sees, in order, without the paths that another begins with."""
    paths = {tuple(row_T.nonzero().flatten().tolist()) for row_T in ancestors_TT.cpu()}
    beginnings = {path[:length] for path in paths for length in range(1, len(path))}
    return sorted(paths - beginnings)
