"""`falcon distill` trains a drafter on its target's outputs: a recipe in, a checkpoint with its tree out."""
