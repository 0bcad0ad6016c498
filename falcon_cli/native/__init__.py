"""Few-row CPU kernels: decoder layers whose rows do not depend on their neighbours, bit for bit."""
