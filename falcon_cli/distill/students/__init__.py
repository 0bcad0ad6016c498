"""The networks that learn: a recipe and a target in; a student out, with a loss per batch and a drafter at the end."""
