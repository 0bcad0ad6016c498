"""Questions in, records out: methods and peers take turns to answer, on one clock."""
