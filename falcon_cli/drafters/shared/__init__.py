"""What drafters are made of, whichever method they follow."""
