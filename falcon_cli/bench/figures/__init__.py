"""Records of answers in, figures out: totals, speedups with their intervals, the certificate, the results document."""
