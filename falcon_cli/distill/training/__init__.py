"""The training loop: a student and its features in; optimizer steps, evaluations, logs and checkpoints out."""
