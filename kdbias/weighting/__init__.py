"""Weighting: from measurements to how often each sample is drawn; `stage` holds `kdbias.weights`."""
