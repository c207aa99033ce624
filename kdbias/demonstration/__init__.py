"""Demonstration: the stages on real digits; `story` holds `kdbias.demo`."""
