"""`falcon tune-tree`: the tree and the k that give most tokens a second on a machine, predicted, then validated."""
