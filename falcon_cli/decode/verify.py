"""Greedy verification: the longest root path on which every drafted token is the target's own choice.

Shapes: T nodes, A accepted nodes (the root included).
"""

from falcon_cli.core import Draft, Scores, Verdict


def pick(scores: Scores) -> int:
    """The target's choice after the last row."""
    return int(scores.choice_T[-1])


def verify(draft: Draft, scores: Scores) -> Verdict:
    """Hold a draft against the target's choices after its nodes.

    A node is reached when its parent is and it agrees with the target's choice after that; the deepest reached node
    (the first of them, should there be several) ends the accepted path.
    """
    choices, tokens = scores.choice_T.tolist(), draft.tokens_T.tolist()
    candidates = [True] * len(tokens) if draft.candidate_T is None else draft.candidate_T.tolist()
    path_to: dict[int, tuple[int, ...]] = {0: (0,)}
    for node, parent in enumerate(draft.parents):
        if node and parent in path_to and candidates[node] and tokens[node] == choices[parent]:
            path_to[node] = (*path_to[parent], node)
    path = max(path_to.values(), key=len)
    return Verdict(path, tuple(tokens[node] for node in path[1:]), choices[path[-1]], tuple(choices))
