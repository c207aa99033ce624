"""Measurement: density of samples, uniformity of sampling distributions; `stage` holds `uniformity`."""
