"""A drafter that copies what the text has said before, and drafts a tree where there is nothing to copy.

A copied chain takes the place of the tree in its cycle. The tree's drafter runs no pass then; it reads the tokens of
such cycles, with the target's features, all at once in the next cycle that it drafts.
"""

from torch import Tensor

from falcon_cli.core import Draft, Drafter, Scores, Verdict
from falcon_cli.drafters.shared.tree_drafter import TreeDrafter

NGRAM = 3
"""Length of the n-gram after whose repetition is copied, where no better one is known."""


class CopyFirst:
    """Whatever the lookup finds, else a drafted tree.

    Args:
        tree: Drafts where nothing is copied.
        lookup: Drafts the root alone where it has nothing to copy.
    """

    def __init__(self, tree: TreeDrafter, lookup: Drafter):
        self.tree, self.lookup = tree, lookup

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """See `Drafter`."""
        self.tree.start(prompt_L, scores)
        self.lookup.start(prompt_L, scores)

    def propose(self, token: int, room: int) -> Draft:
        """See `Drafter`."""
        copied = self.lookup.propose(token, room)
        if len(copied) == 1:
            return self.tree.propose(token, room)
        self.tree.note_root(token)
        return copied

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """See `Drafter`."""
        self.tree.observe(verdict, scores)
        self.lookup.observe(verdict, scores)
