"""A drafter as a folder: checkpoint, model card, tuned tree; which one is taken."""
