"""Inspection: what a file is; `describe` holds `kdbias.inspect`."""
