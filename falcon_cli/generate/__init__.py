"""Answers for people and for pipelines."""
