"""A tuning result in; its document, tables and pictures out."""
