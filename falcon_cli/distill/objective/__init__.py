"""The training objective: batches in, losses and accuracies out, as pure functions (Falcon, section 3.2: CSGD)."""
