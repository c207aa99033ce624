"""Which of a data set's training samples a biased draw keeps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.studies.description import Bias

KINDS = {
    "none": (),
    "long-tail": ("imbalance",),
    "skew": ("column", "value", "share", "samples"),
    "fraction": (),
}
"""Kind -> keys that it needs."""
_MAY_HAVE = {"long-tail": ("samples",), "fraction": ("fraction", "samples")}


def draw(bias: Bias, labels: pa.Array | None, column: pa.Array | None, n: int, where: str) -> np.ndarray:
    """Rows of the kept samples, ascending int64; a function of the arguments alone.

    Args:
        labels: (n,) texts, for long-tail.
        column: (n,) values of `bias.column`, for skew.

    Raises:
        KdbiasError: an unknown kind, a key that is missing, or more samples asked for than there are.
    """
    if bias.kind not in KINDS:
        raise KdbiasError(f"{where}: unknown kind {bias.kind!r}; known: {', '.join(KINDS)}")
    missing = [key for key in KINDS[bias.kind] if getattr(bias, key) is None]
    if missing:
        raise KdbiasError(f"{where}: kind {bias.kind} needs {', '.join(missing)}")
    known = (*KINDS[bias.kind], *_MAY_HAVE.get(bias.kind, ()), "kind", "seed")
    foreign = [key for key, value in bias.draw.items() if value is not None and key not in known]
    if foreign:
        raise KdbiasError(f"{where}: kind {bias.kind} does not use {', '.join(foreign)}; leave it out")
    rng = np.random.default_rng(bias.seed)
    if bias.kind == "none":
        return np.arange(n)
    if bias.kind == "long-tail":
        if labels is None or labels.null_count:
            raise KdbiasError(f"{where}: a long tail needs a label for every sample")
        return _long_tail(bias, pc.dictionary_encode(labels), rng, where)
    if bias.kind == "skew":
        assert column is not None
        return _skew(bias, column, rng, where)
    if (bias.fraction is None) == (bias.samples is None):
        raise KdbiasError(f"{where}: kind fraction needs fraction or samples")
    count = bias.samples if bias.samples is not None else round(n * float(bias.fraction or 0))
    _require_enough(count, n, "samples", where)
    return np.sort(rng.choice(n, count, replace=False))


def _long_tail(bias: Bias, encoded: pa.DictionaryArray, rng: np.random.Generator, where: str) -> np.ndarray:
    """Class number c of C keeps m * imbalance^(-c / (C - 1)) samples, at least 1; the seed orders classes.

    m is `samples`, or the size of the smallest class.
    """
    if not (bias.imbalance or 0) >= 1:
        raise KdbiasError(f"{where}: imbalance is {bias.imbalance}, should be at least 1")
    codes = encoded.indices.to_numpy()
    names = encoded.dictionary.to_pylist()
    if len(names) < 2:
        raise KdbiasError(f"{where}: a long tail needs two classes or more")
    smallest = int(np.bincount(codes).min())
    most = smallest if bias.samples is None else bias.samples
    _require_enough(most, smallest, "samples of the largest class", where)
    kept = []
    for place, code in enumerate(rng.permutation(np.argsort(names, kind="stable"))):
        count = max(1, round(most * float(bias.imbalance or 1) ** (-place / (len(names) - 1))))
        kept.append(rng.choice(np.flatnonzero(codes == code), count, replace=False))
    return np.sort(np.concatenate(kept))


def _skew(bias: Bias, column: pa.Array, rng: np.random.Generator, where: str) -> np.ndarray:
    share, samples = float(bias.share or 0), int(bias.samples or 0)
    if not 0 < share < 1:
        raise KdbiasError(f"{where}: share is {share:g}, should lie between 0 and 1")
    hit = pc.equal(pc.cast(column, pa.large_string()), bias.value or "").fill_null(False)
    own = np.flatnonzero(hit.to_numpy(zero_copy_only=False))
    others = np.setdiff1d(np.arange(len(column)), own)
    count = round(share * samples)
    _require_enough(count, len(own), f"samples with {bias.column}={bias.value}", where)
    _require_enough(samples - count, len(others), "other samples", where)
    kept = [rng.choice(own, count, replace=False), rng.choice(others, samples - count, replace=False)]
    return np.sort(np.concatenate(kept))


def _require_enough(count: int, available: int, what: str, where: str) -> None:
    if not 0 < count <= available:
        raise KdbiasError(f"{where}: asks for {count:,} {what}; there are {available:,}")
