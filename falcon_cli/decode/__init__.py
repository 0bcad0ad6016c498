"""Speculative decoding itself: draft, score, verify, commit. Knows target and drafter only by Protocol."""
