"""Which samples a bias keeps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.studies.biases import Bias, Fraction, LongTail, Skew


def draw(bias: Bias, labels: pa.Array | None, column: pa.Array | None, n: int, where: str) -> np.ndarray:
    """Rows of the samples that a bias keeps, ascending int64; a function of the arguments alone.

    Args:
        labels: (n,) texts, for a long tail.
        column: (n,) values of the bias's column, for a skew.
        n: how many samples there are to draw from.
        where: what messages call the case.

    Raises:
        KdbiasError: more samples asked for than there are, or a label that is missing.
    """
    rng, kind = np.random.default_rng(bias.seed), bias.chosen
    if isinstance(kind, LongTail):
        return _long_tail(kind, labels, rng, where)
    if isinstance(kind, Skew):
        assert column is not None
        return _skew(kind, column, rng, where)
    if isinstance(kind, Fraction):
        count = round(n * (kind.fraction or 0)) if kind.samples is None else kind.samples
        return np.sort(_chosen(rng, np.arange(n), count, "samples", where))
    return np.arange(n)


def _long_tail(bias: LongTail, labels: pa.Array | None, rng: np.random.Generator, where: str) -> np.ndarray:
    """Class number c of C keeps m * imbalance^(-c / (C - 1)) samples, at least 1; the seed orders classes.

    m is `samples`, or the size of the smallest class. Where they are `capped`, a class that has fewer samples
    keeps all of them.
    """
    if labels is None or labels.null_count:
        raise KdbiasError(f"{where}: a long tail needs a label for every sample")
    encoded = pc.dictionary_encode(labels)
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    if len(names) < 2:
        raise KdbiasError(f"{where}: a long tail needs two classes or more")
    smallest = int(np.bincount(codes).min())
    most = smallest if bias.samples is None else bias.samples
    if not bias.capped:
        require_enough(most, smallest, "samples of the largest class", where)
    kept = []
    for place, code in enumerate(rng.permutation(np.argsort(names, kind="stable"))):
        count = max(1, round(most * float(bias.imbalance) ** (-place / (len(names) - 1))))
        own = np.flatnonzero(codes == code)
        kept.append(rng.choice(own, min(count, len(own)), replace=False))
    return np.sort(np.concatenate(kept))


def _skew(bias: Skew, column: pa.Array, rng: np.random.Generator, where: str) -> np.ndarray:
    """Rows drawn with these values at their share, int (samples,), sorted."""
    texts = pc.cast(column, pa.large_string())
    hit = pc.is_in(texts, pa.array(bias.value, texts.type)).to_numpy(zero_copy_only=False)
    count = round(bias.share * bias.samples)
    named = f"samples with {bias.column}={' or '.join(bias.value)}"
    own = _chosen(rng, np.flatnonzero(hit), count, named, where)
    others = _chosen(rng, np.flatnonzero(~hit), bias.samples - count, "other samples", where)
    return np.sort(np.concatenate([own, others]))


def _chosen(rng: np.random.Generator, rows: np.ndarray, count: int, what: str, where: str) -> np.ndarray:
    """`count` of these rows, drawn without replacement."""
    require_enough(count, len(rows), what, where)
    return rng.choice(rows, count, replace=False)


def require_enough(count: int, available: int, what: str, where: str) -> None:
    """Refuse to draw none, or more samples than there are."""
    if not 0 < count <= available:
        raise KdbiasError(f"{where}: asks for {count:,} {what}; there are {available:,}")
