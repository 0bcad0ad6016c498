"""YAML recipes as frozen dataclasses; imports no torch."""
