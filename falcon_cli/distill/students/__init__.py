"""Who learns: a recipe and a target in, a student out, which gives a loss for a batch and a drafter in the end."""
