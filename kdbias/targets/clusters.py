"""Which samples of a reference depend on each other: images of one person, frames of one scene.

A reference of 300 images of 80 persons says of a distribution over persons hardly more than 80 images do.
Its noise, the two-sample test and the intervals therefore count such clusters, not images.
"""

import numpy as np
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.target import Codes
from kdbias.tables.joins import as_strings, encode_all
from kdbias.targets.described import Described
from kdbias.targets.settings import EACH_ALONE
from kdbias.wording import counted

FEWEST = 30
"""Labels of fewer values are not taken for persons: so few say nothing about how much persons vary."""


def clusters_of(data: Described, reference: Described, asked: str | None) -> tuple[str | None, str]:
    """The column whose values are clusters (None: each sample stands alone), and what is to be said of it.

    Where nobody asks, it is the label if its values are many and are mostly not those of the data, as persons
    are: classes, which both have, are no random draw.

    Raises:
        KdbiasError: the column that was asked for is not in the reference, or has one value.
    """
    if asked == EACH_ALONE:
        return None, ""
    if asked is not None:
        _require(reference, asked)
        return asked, ""
    if not _persons(data, reference):
        return None, ""
    labels = len(pc.unique(as_strings(reference.column("label"))))
    return "label", (
        f"the reference's {counted(reference.n, 'sample')} have {labels:,} labels, most of them not in the "
        "data, as other persons would: samples of one label count as depending on each other (--cluster-by "
        "none: each alone)"
    )


def cluster_codes(data: Described, reference: Described, column: str) -> Codes:
    """Clusters of the data (n,) and of the reference (m,); samples without a value stand alone.

    Where the data lack the column each of their samples does.
    """
    ours = column in ("label", *data.group_columns)
    return (_codes(data, column) if ours else np.arange(data.n)), _codes(reference, column)


def _codes(table: Described, column: str) -> np.ndarray:
    """(n,) the cluster of each sample, 0 ... C - 1."""
    values = as_strings(table.column(column))
    codes, _ = encode_all(values)
    none = np.asarray(pc.is_null(values))
    codes = np.where(none, codes.max() + 1 + np.cumsum(none), codes)
    return np.unique(codes, return_inverse=True)[1].reshape(-1)


def _persons(data: Described, reference: Described) -> bool:
    """Whether the reference's labels name persons: many, repeated, and most of them not in the data."""
    labels = as_strings(reference.column("label"))
    known = labels.drop_null()
    names = pc.unique(known)
    if len(names) < FEWEST or len(names) == len(known):
        return False
    shared = pc.sum(
        pc.is_in(known, value_set=pc.unique(as_strings(data.column("label")).drop_null()))
    ).as_py()
    return 2 * shared < len(known)


def _require(reference: Described, column: str) -> None:
    if column not in ("label", *reference.group_columns):
        raise KdbiasError(
            f"the reference {reference.path} has no column {column!r} to cluster by; it has: "
            f"{', '.join(['label', *reference.group_columns])}"
        )
    if len(pc.unique(as_strings(reference.column(column)))) < 2:
        raise KdbiasError(
            f"the reference {reference.path} has a single value in column {column!r}: one cluster says "
            "nothing about how much clusters differ; leave --cluster-by out"
        )
