"""Samples in, features out: what the target says at every token, from disk or as training goes, in batches."""
