"""What is learned: batches in, losses and accuracies out. Pure functions (Falcon, section 3.2: CSGD)."""
