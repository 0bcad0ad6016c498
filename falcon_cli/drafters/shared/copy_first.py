"""Falcon beside a drafter that copies: what the text has said before is drafted for nothing, all else by Falcon.

A copied chain takes the place of the tree in its cycle. Falcon runs no pass then; it reads the tokens of such cycles,
with the target's features, all at once when its turn comes again.
"""

from torch import Tensor

from falcon_cli.core import Draft, Drafter, Scores, Verdict
from falcon_cli.drafters.falcon.propose import Falcon

NGRAM = 3
"""Length of the n-gram after whose repetition is copied, where no better one is known."""


class CopyFirst:
    """Whatever the copier drafts, else Falcon's tree.

    Args:
        falcon: Drafts where nothing is copied.
        copier: Drafts the root alone where it has nothing to copy.
    """

    def __init__(self, falcon: Falcon, copier: Drafter):
        self.falcon, self.copier = falcon, copier

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """See `Drafter`."""
        self.falcon.start(prompt_L, scores)
        self.copier.start(prompt_L, scores)

    def propose(self, token: int, room: int) -> Draft:
        """See `Drafter`."""
        copied = self.copier.propose(token, room)
        if len(copied) == 1:
            return self.falcon.propose(token, room)
        self.falcon.note_root(token)
        return copied

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """See `Drafter`."""
        self.falcon.observe(verdict, scores)
        self.copier.observe(verdict, scores)
