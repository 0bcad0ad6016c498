"""`falcon distill`: a drafter learns to say what its target would say."""
