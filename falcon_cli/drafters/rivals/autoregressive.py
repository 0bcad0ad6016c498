"""Plain autoregression: no draft at all, the yardstick of every method."""

import torch
from torch import Tensor

from falcon_cli.core import Draft, Scores, Verdict


class Autoregressive:
    """Proposes the root alone, so that every cycle yields one token."""

    def __init__(self, device: torch.device):
        self.device = device

    def start(self, prompt_L: Tensor, scores: Scores) -> None:
        """Nothing to remember."""

    def propose(self, token: int, room: int) -> Draft:
        """The root alone."""
        return Draft.chain([token], self.device)

    def observe(self, verdict: Verdict, scores: Scores) -> None:
        """Nothing to learn."""
