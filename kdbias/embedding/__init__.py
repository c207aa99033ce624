"""Embedding: plan, decode, compute, write parts; `stage` holds `kdbias.embed`."""
