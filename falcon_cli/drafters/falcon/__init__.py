"""Falcon: the semi-autoregressive drafter (Gao et al., AAAI 2025); EAGLE is its network with k = 1."""
