"""Studies: the same student under many ways of drawing its data; `stage` holds `kdbias.study`."""
