"""Weights in files: safetensors of limited size, and what PyTorch once pickled."""
