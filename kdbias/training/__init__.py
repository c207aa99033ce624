"""Training: one loop, its options, data and record; `loop` holds `kdbias.train`."""
