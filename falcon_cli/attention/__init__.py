"""Query-versus-cache attention for token trees."""
