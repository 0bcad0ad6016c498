"""What runs the model: greedy texts, the drafter's ranks on them, the costs of a cycle, the validation runs."""
