"""What quantised weights cost in quality: texts read by every kind of weights, and answers marked."""
