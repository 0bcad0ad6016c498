"""Whether falcon reads a model as its own class does, tried at load on a small random twin."""
