"""A pass in blocks from its first unit to its results, by an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from kdbias.engine.opening import Engine
from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.blocks.unit import PairJob, pair_units, read_state, reduce_units
from kdbias.sphere.reservoirs import nearest_first
from kdbias.sphere.room import room


def do_units(job: PairJob, engine: Engine, progress: Callable[[int], object] = lambda pairs: None) -> int:
    """Do the units of a job that are not done, wave after wave; returns how many were done here.

    Args:
        progress: called with the ordered pairs of rows that were done since the last call, here or elsewhere.
    """
    done = 0
    for wave in range(job.plan.waves):
        units = [(wave, i, j) for i, j in job.plan.wave(wave)]
        left = sum(job.plan.pairs(i, j) for _, i, j in units)
        mine = [unit for unit in units if not job.seen(unit)]
        before = left - sum(job.plan.pairs(i, j) for _, i, j in mine)
        progress(before)
        left -= before
        # Where units run in this process it tells tile by tile.
        see = partial(pair_units, job) if engine.remote else partial(pair_units, job, progress=progress)
        for pairs in engine.settle(see, units, job.seen):
            left, done = left - pairs, done + 1
            if engine.remote:
                progress(pairs)
        progress(left)  # by other processes
        blocks = sorted({block for _, i, j in units for block in (i, j)})
        for _ in engine.settle(partial(reduce_units, job), [(wave, b) for b in blocks], job.reduced):
            pass
    return done


def results(job: PairJob) -> AllPairs:
    """What a finished job gave, which may not fit in memory: it lies beside the vectors."""
    x, weights = job.array(job.vectors), np.asarray(job.array(job.weights))
    sums = room(x, (len(weights), len(job.bandwidths), job.n))
    counts, ids, cosines = room(x, job.n, np.int64), None, None
    if job.k:
        ids, cosines = (room(x, (job.n, job.k), kind) for kind in (np.int64, np.float32))
    for block in range(job.plan.blocks):
        run, found = job.plan.run(block), read_state(job, block, job.plan.waves)
        sums[:, :, run], counts[run] = found["sums"], found["counts"]
        if ids is not None and cosines is not None:
            ids[run], cosines[run] = nearest_first(found["keys"], job.k)
    near = counts if job.near is not None else None
    return AllPairs(list(job.bandwidths), weights, sums, ids, cosines, near)
