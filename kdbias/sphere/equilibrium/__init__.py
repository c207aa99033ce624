"""The sampling of least kernel energy, or nearest to a target, with the proof of how good it is."""
