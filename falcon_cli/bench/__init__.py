"""Methods against plain decoding: timing, certificate, report."""
