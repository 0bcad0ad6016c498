"""Dialogues in, samples out: read, filtered, rendered in the target's template, answered by the target if asked to."""
