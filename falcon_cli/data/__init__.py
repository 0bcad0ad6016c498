"""Prompts and data sets."""
