"""What the model itself says: the weights are numbers, and transformers' own text is what falcon is held against."""
