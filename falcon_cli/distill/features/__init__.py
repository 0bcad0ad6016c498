"""Samples in, batches of features out: the target's states and next tokens, cached or computed online."""
