"""The big frozen model, through transformers."""
