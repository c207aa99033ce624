"""Geometry of unit vectors: all pairs in tiles or by cells, and what follows from them.

`tiles.traverse` shows every pair once to any number of epilogues (`potentials`, `neighbors`, `duplicates`);
`all_pairs` puts them together on the CPU or, with `torch_pairs` and `faiss_search`, on a GPU. Past exact,
`cells` sums near cells exactly and the far field from moments. `equilibrium` finds the best weights.
"""
