"""Greedy verification: the longest root path on which every drafted token is the target's own choice.

Shapes: T nodes, A accepted nodes (the root included), V vocabulary.
"""

import torch
from torch import Tensor

from falcon_cli.core import Draft, Verdict


def pick(logits_TV: Tensor) -> int:
    """The target's choice after the last row."""
    return int(logits_TV[-1].argmax())


def verify(draft: Draft, logits_TV: Tensor) -> Verdict:
    """Hold a draft against the target's logits of its nodes.

    A node is reached when it and all its ancestors agree with the target's choice after their parents; the deepest
    reached node (the first of them, should there be several) ends the accepted path.
    """
    choice_T = logits_TV.argmax(-1)
    parents_T = torch.tensor(draft.parents, device=choice_T.device)
    agrees_T = draft.tokens_T == choice_T[parents_T]
    if draft.candidate_T is not None:
        agrees_T &= draft.candidate_T
    agrees_T[0] = True
    reached_T = (agrees_T | ~draft.ancestors_TT).all(-1)
    leaf = int((draft.depth_T * reached_T).argmax())
    path_A = draft.ancestors_TT[leaf].nonzero().squeeze(-1)
    return Verdict(
        path_A=path_A,
        accepted=tuple(draft.tokens_T[path_A[1:]].tolist()),
        next_token=int(choice_T[leaf]),
        choice_T=choice_T,
    )
