"""Falcon: the semi-autoregressive drafter."""
