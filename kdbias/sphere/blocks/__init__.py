"""All pairs in blocks of rows: units that any process can do, one after another, with files between them.

A unit sees the pairs of two blocks and writes what they give each: sums, counts, candidates for neighbours.
What a block got in a wave of units is then reduced to its state, which holds the k best keys so far, so that
later waves offer few candidates. Tiles lie on the grid of one pass over all rows, and everything is added in
one order, so results do not depend on who did which unit when.
"""
