"""Dialogues in, samples out: filtered, rendered in the target's template, with the target's answers if requested."""
