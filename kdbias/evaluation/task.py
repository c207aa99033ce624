"""What a protocol is given and what it hands back."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.filters import matching
from kdbias.errors import KdbiasError
from kdbias.evaluation.resampling import Units
from kdbias.progress import say
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import as_strings, encode
from kdbias.wording import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY = 30  # labels that are resampled, and samples of a label that is a class


@dataclass(frozen=True)
class Embeddings:
    """Rows of an embedding table, in memory.

    Attributes:
        name: where they come from, for messages.
        ids: (n,) unique strings.
        labels: (n,) strings, null where a sample has none.
        groups: further columns by name, (n,) each.
        norms: (n,) float32 lengths before normalising.
        vectors: (n, d) float32 unit rows.
        fingerprint: of the whole table.
        flips: (n, d) float32 unit rows of the mirrored images, where the table has them and they were asked
            for; flip_norms: (n,) their lengths before normalising.
    """

    name: str
    ids: pa.Array
    labels: pa.Array
    groups: Mapping[str, pa.Array]
    norms: np.ndarray
    vectors: np.ndarray
    fingerprint: str
    flips: np.ndarray | None = None
    flip_norms: np.ndarray | None = None

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(self.ids)

    @property
    def d(self) -> int:
        """Dimensions of a vector."""
        return self.vectors.shape[1]

    def columns(self) -> dict[str, pa.Array]:
        """What ``where`` and ``group_by`` can name."""
        return {"sample_id": self.ids, "label": self.labels, **self.groups}

    def column(self, name: str) -> pa.Array:
        """A column by name: ``label``, ``sample_id`` or a group column."""
        known = self.columns()
        if name not in known:
            raise KdbiasError(
                f"{self.name} has no column {name!r}; it has {', '.join(known)}{nearest(name, known)}"
            )
        return known[name]

    def take(self, rows: np.ndarray) -> "Embeddings":
        """Some rows, in this order."""
        wanted = pa.array(rows)
        return replace(
            self,
            ids=self.ids.take(wanted),
            labels=self.labels.take(wanted),
            groups={name: values.take(wanted) for name, values in self.groups.items()},
            norms=self.norms[rows],
            vectors=self.vectors[rows],
            flips=None if self.flips is None else self.flips[rows],
            flip_norms=None if self.flip_norms is None else self.flip_norms[rows],
        )


@dataclass(frozen=True)
class Task:
    """The embeddings to judge, and what to judge them by."""

    model: Embeddings
    reference: Embeddings | None = None
    gallery: Embeddings | None = None

    def __post_init__(self) -> None:
        for other in (self.reference, self.gallery):
            if other is not None and other.d != self.model.d:
                raise KdbiasError(
                    f"{self.model.name} has {self.model.d} dimensions, {other.name} {other.d}; "
                    "to be compared they must be of one space"
                )


@dataclass(frozen=True)
class Outcome:
    """What a protocol found, unit by unit.

    Attributes:
        ids: what names a unit: ``{"sample_id": ...}`` or two columns for a pair.
        columns: per-unit results that the protocol's ``score`` reads, (n,) each.
        groups: value of each grouping column per unit; null = the unit belongs to no single group.
        clusters: integer codes of what is resampled together, (n,) or (n, 2); None = each unit alone.
        resampled: the name of what is resampled, for the reader ("sample", "label", ...).
        parameters: further arguments of ``score``, JSON values.
        test_data: rows that decide the answer besides the judged embeddings, by name (``{"gallery": (ids,
            labels)}``): two models can be compared where these are the same, in any order.
        details: facts that have no interval, JSON values.
        left_out: number of units not judged, by reason.
        always_grouped: groups reported without being asked for.
        plots: pictures beside the numbers: file name without suffix -> a function that draws it.
        reasons: why a metric has no value, by name.
    """

    ids: Mapping[str, pa.Array]
    columns: Mapping[str, np.ndarray]
    groups: Mapping[str, pa.Array] = field(default_factory=dict)
    clusters: np.ndarray | None = None
    resampled: str = "sample"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    test_data: Mapping[str, Sequence[pa.Array | np.ndarray]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    always_grouped: Sequence[str] = ()
    plots: Mapping[str, Callable[["Axes"], None]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many units were judged."""
        return len(next(iter(self.columns.values())))

    def units(self, group_by: Sequence[str]) -> Units:
        """The units with the columns to report by, those that the protocol always reports among them."""
        wanted = list(dict.fromkeys([*group_by, *self.always_grouped]))
        for name in wanted:
            if name not in self.groups:
                raise KdbiasError(
                    f"cannot group by {name!r}; there is {', '.join(self.groups) or 'no group column'}"
                )
        return Units(self.ids, self.columns, {name: self.groups[name] for name in wanted}, self.clusters)


def read_embeddings(
    path: str | os.PathLike[str], where: Sequence[str] = (), flips: bool = False
) -> Embeddings:
    """Read an embedding table, keeping the rows for which every ``column=value`` of ``where`` holds.

    ``flips`` asks for the mirrored views too, where the table has them.

    Raises:
        KdbiasError: no embedding table, a column is missing, or no row is left.
    """
    table = EmbeddingTable.open(path)
    found = Embeddings(
        name=f"embedding table {path}",
        ids=as_strings(table.ids()),
        labels=as_strings(table.labels()),
        groups={name: table.column(name) for name in table.group_columns},
        norms=np.asarray(table.norms(), dtype=np.float32),
        vectors=np.empty((table.n, 0), np.float32),  # read last, when it is known which
        fingerprint=table.fingerprint,
        flip_norms=table.flip_norms() if flips else None,
    )
    keep, rows = matching(found, where), None
    if keep is not None and not keep.all():
        if not keep.any():
            raise KdbiasError(f"{found.name}: no row satisfies {' and '.join(where)}")
        rows = np.flatnonzero(keep)
        found = found.take(rows)
    return replace(
        found,
        vectors=table.vectors(positions=rows),
        flips=table.vectors(column="embedding_flip", positions=rows) if flips and table.has_flip else None,
    )


def labelled(embeddings: Embeddings) -> Embeddings:
    """The rows that have a label; refuses a table without any."""
    known = embeddings.labels.is_valid().to_numpy(zero_copy_only=False)
    if not known.any():
        raise KdbiasError(
            f"{embeddings.name} has no labels; embed it with --label-column, or choose another protocol"
        )
    return embeddings if known.all() else embeddings.take(np.flatnonzero(known))


def clusters_of(embeddings: Embeddings, column: str | None) -> tuple[np.ndarray | None, str]:
    """Codes of what is resampled together, (n,) or None for each row alone, and its name.

    Args:
        column: whose values are resampled as a whole (a null is one of its own); "" for each row alone; None
            for the label where labels are identities, else each row alone.
    """
    if column is None:
        column = "label" if are_identities(embeddings.labels) else ""
    if not column:
        return None, "sample"
    return codes_of(embeddings.column(column)), column


def codes_of(values: pa.Array) -> np.ndarray:
    """Codes of what is resampled together, int64 (n,); a null is one of its own."""
    codes, names = encode(values)
    alone = codes < 0
    codes[alone] = len(names) + np.arange(alone.sum())
    return codes


def of_samples(model: Embeddings, cluster_by: str | None) -> dict[str, Any]:
    """What outcomes of samples have in common: ids, groups, clusters and their name (`clusters_of`)."""
    clusters, resampled = clusters_of(model, cluster_by)
    groups = {**model.groups, "label": model.labels}
    return {"ids": {"sample_id": model.ids}, "groups": groups, "clusters": clusters, "resampled": resampled}


def products(
    left: np.ndarray, right: np.ndarray, first: np.ndarray, second: np.ndarray, dtype: Any = np.float32
) -> np.ndarray:
    """(m,) dot products of rows ``first`` of ``left`` with rows ``second`` of ``right``, in ``dtype``."""
    found = np.empty(len(first), dtype)
    for start in range(0, len(first), 2048):  # what fits the processor's cache
        part = slice(start, start + 2048)
        found[part] = np.einsum("ij,ij->i", left[first[part]], right[second[part]], dtype=dtype)
    return found


def are_identities(labels: pa.Array) -> bool:
    """Whether labels name persons or things, of whom a test set shows some, and not classes, which are given.

    They are taken for identities where there are 30 or more, with fewer than 30 samples each on average: a
    class mostly has more samples in a test set, and fewer than 30 clusters cannot well be resampled.
    """
    known = len(labels) - labels.null_count
    count = pc.count_distinct(labels).as_py()
    return count >= _MANY and known < _MANY * count


@dataclass(frozen=True)
class Views:
    """Two views of each image, as it is and mirrored, made one vector.

    Face recognition does it in two ways, whose numbers differ a little: ``raw`` adds the embeddings as the
    network gave them and normalises the sum (insightface's scripts), so that the longer one counts more;
    ``unit`` normalises each and adds those.

    Attributes:
        vectors, flips: (n, d) float32 unit rows of the images and of their mirrors, None where the images
            are the one view.
        fusion: ``raw`` or ``unit``, or None where there is one view alone.
        own, mirror: (n,) float64 factors of both.
    """

    vectors: np.ndarray
    flips: np.ndarray | None
    fusion: str | None
    own: np.ndarray
    mirror: np.ndarray

    def lengths(self) -> np.ndarray:
        """(n,) float64 length of each sum."""
        if self.flips is None:
            return self.own
        own, mirror, rows = self.own, self.mirror, np.arange(len(self.own))
        cosines = products(self.vectors, self.flips, rows, rows, np.float64)
        return np.sqrt(np.maximum(own**2 + mirror**2 + 2 * own * mirror * cosines, 0))

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float32 unit sums of some rows; a sum of opposite vectors stays zero."""
        vectors = self.vectors[rows]
        if self.flips is None:
            return vectors
        own, mirror = self.own[rows], self.mirror[rows]
        share = (own / (own + mirror)).astype(np.float32)[:, None]
        vectors = share * vectors + (1 - share) * self.flips[rows]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors

    def details(self) -> dict[str, str | None]:
        """For ``metrics.json``."""
        return {"views": "image" if self.flips is None else "image + mirror", "flip_fusion": self.fusion}


def views_of(model: Embeddings, fusion: str | None = None, mirrored: bool = True) -> Views:
    """The views of a table's rows, to be added by ``fusion`` (default: raw).

    Args:
        mirrored: False takes the image alone, whatever the table has.

    Raises:
        KdbiasError: ``raw`` is asked for where the table lacks the mirrored norms.
    """
    ones = np.ones(model.n)
    if model.flips is None or not mirrored:
        return Views(model.vectors, None, None, ones, ones)
    if fusion != "unit" and model.flip_norms is None:
        if fusion == "raw":
            raise KdbiasError(
                f"{model.name} has no norm_flip, which raw fusion needs: embed again with --flip, "
                "or use --flip-fusion unit"
            )
        say(f"{model.name} has no norm_flip: both views are added as unit vectors (--flip-fusion unit)")
    if fusion == "unit" or model.flip_norms is None:
        return Views(model.vectors, model.flips, "unit", ones, ones)
    lengths = (norms.astype(np.float64) for norms in (model.norms, model.flip_norms))
    return Views(model.vectors, model.flips, "raw", *lengths)
