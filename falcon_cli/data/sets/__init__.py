"""The named data sets: where each lies, and how it is read."""
