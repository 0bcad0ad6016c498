"""The command line: thin shells over the floors below."""
