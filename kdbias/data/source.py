"""Where samples come from: the one interface that every kind of data set is read through."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.decode import UnreadableImage
from kdbias.data.settings import Options
from kdbias.display.result import Result
from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.columns import as_plain, is_own
from kdbias.tables.joins import as_strings, require_unique
from kdbias.wording import counted, nearest

if TYPE_CHECKING:
    import pandas as pd

_NO_CLASS = -1
_RUN = 1024  # samples that count as a shard where the data have none


class Images(Protocol):
    """Encoded images (bytes) or decoded ones (uint8 arrays), found by row. Picklable; opened lazily."""

    def read(self, row: int) -> bytes | np.ndarray:
        """Bytes of an image file, or uint8 of shape (height, width) or (height, width, channels).

        Raises:
            UnreadableImage: this one image cannot be read.
        """
        ...

    def location(self, row: int) -> str:
        """Where the image lies, for people: a path, or file and row."""
        ...


class NoImages:
    """Stands in a table of ids, labels and groups, whose vectors exist already, where images would be."""

    def read(self, row: int) -> bytes | np.ndarray:
        """Raises UnreadableImage: there is nothing to read."""
        raise UnreadableImage("the data hold no images")

    def location(self, row: int) -> str:
        """The row's number, in words."""
        return f"row {row}"


@dataclass(frozen=True, eq=False, repr=False)
class Source(Result):
    """The samples of a data set, in a fixed order.

    Attributes:
        kind: "folder", "table", ...
        origin: what the user named.
        ids: (n,) large_string, unique.
        labels: (n,) large_string with nulls, or None when there are no labels.
        groups: name -> (n,) array of any scalar Arrow type.
        images: reader, addressed by row of the unfiltered data.
        fingerprint: digest that changes when ids, labels, groups, order or images change, as far as the kind
            of data can tell cheaply (each says what it covers); it does not depend on where the data lies.
        total: samples before any filter.
        rows: (n,) int64 positions in the unfiltered data, or None for all of them in order.
        names: original names of the columns that became ``sample_id`` and ``label``.
        notes: remarks for the reader of a run's output.
        about: what a description says of the data: name, terms, citation, aligned embeddings.
    """

    kind: str
    origin: str
    ids: pa.Array
    labels: pa.Array | None
    groups: dict[str, pa.Array]
    images: Images
    fingerprint: str
    total: int
    rows: np.ndarray | None = None
    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    _elsewhere: ClassVar[str] = "; once embedded, kdbias.EmbeddingTable has one"

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> np.ndarray:
        """(n,) int64: where each sample stands in the unfiltered data (for arrays aligned with it)."""
        return np.arange(self.n, dtype=np.int64) if self.rows is None else self.rows

    def _row(self, i: int) -> int:
        if not 0 <= i < len(self.ids):
            raise IndexError(f"sample {i} of {len(self.ids)}")
        return i if self.rows is None else int(self.rows[i])

    def read(self, i: int) -> bytes | np.ndarray:
        """Sample ``i``: bytes of an image file, or a uint8 array (height, width[, channels]).

        Raises:
            UnreadableImage: the image is missing or cannot be read; other samples are not affected.
        """
        return self.images.read(self._row(i))

    def location(self, i: int) -> str:
        """Where sample ``i`` lies: a path, or file and row."""
        return self.images.location(self._row(i))

    def by_shard(self, at_hand: int) -> np.ndarray:
        """(n,) integers: the shard that holds each sample. Tars, row groups of Parquet files and Arrow files
        are shards; elsewhere, runs of 1,024 samples in the order of the data are.

        Args:
            at_hand: shards that are going to be read at a time, which readers then keep open.
        """
        of = getattr(self.images, "by_shard", None)
        return self.positions // _RUN if of is None else of(self.positions, at_hand)

    def column(self, name: str) -> pa.Array:
        """Values of a group, of ``sample_id`` or ``label``, or of these by their original names."""
        columns = self.columns()
        require_column(self.origin, name, columns)
        return columns[name]

    def columns(self) -> dict[str, pa.Array]:
        """Everything known about the samples, by name."""
        columns = {"sample_id": self.ids}
        if self.labels is not None:
            columns["label"] = self.labels
        columns |= self.groups
        for original, name in self.names.items():
            if name in columns:
                columns.setdefault(original, columns[name])
        return columns

    def types(self) -> dict[str, pa.DataType]:
        """The type of each column."""
        return {name: values.type for name, values in self.columns().items()}

    def select(self, rows: np.ndarray) -> "Source":
        """The samples at these positions (int), or where this mask is true (bool), in that order."""
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64, copy=False)
        if rows.size and (rows.min() < 0 or rows.max() >= self.n):
            raise KdbiasError(
                f"{self.origin}: rows {rows.min()}..{rows.max()} asked of {counted(self.n, 'sample')}"
            )
        taken = pa.array(rows)
        return replace(
            self,
            ids=self.ids.take(taken),
            labels=None if self.labels is None else self.labels.take(taken),
            groups={name: values.take(taken) for name, values in self.groups.items()},
            rows=self.positions[rows],
            fingerprint=fingerprints.of_json([self.fingerprint, fingerprints.of_arrays(rows)]),
        )

    def blocks(self) -> list[str]:
        """As `describe`."""
        return [self.describe()]

    def to_pandas(self) -> "pd.DataFrame":
        """A row a sample: id, label where there are such, and the other columns."""
        names = ["sample_id", *["label"] * (self.labels is not None), *self.groups]
        return pa.table({name: self.column(name) for name in names}).to_pandas()

    def describe(self) -> str:
        """One line: counts, labels and groups."""
        name = self.about.get("name") or self.origin
        whole = self.rows is None or self.n == self.total
        n = counted(self.n, "sample") if whole else f"{self.n:,} of {self.total:,} samples"
        parts = [f"{name} ({self.kind}): {n}"]
        if self.labels is None:
            parts.append("no labels")
        else:
            parts.append(counted(count_distinct(self.labels), "label"))
        if self.groups:
            parts.append("groups " + ", ".join(f"{k} ({count_distinct(v)})" for k, v in self.groups.items()))
        return "; ".join([", ".join(parts), *self.notes])


def count_distinct(values: pa.Array) -> int:
    """Number of distinct values, nulls apart."""
    return pc.count_distinct(values).as_py()


def require_column(where: str, name: str | None, known: Iterable[str], use: str = "") -> None:
    """Refuse the name of a column that is not among those known; None names none.

    Args:
        use: what it is for, " for --id-column".
    """
    if name is not None and name not in known:
        raise KdbiasError(
            f"{where}: no column {name!r}{use}; it has {', '.join(known) or 'none'}{nearest(name, known)}"
        )


def joined(*parts: pa.Array | pa.ChunkedArray | str, by: str = "") -> pa.Array | pa.ChunkedArray:
    """(n,) large_string: the texts of each row put together; a str stands for itself in every row."""
    text = pa.large_string()
    arrays = (pa.scalar(part, text) if isinstance(part, str) else part for part in parts)
    return pc.binary_join_element_wise(*arrays, pa.scalar(by, text))


def numbered(n: int, digits: int, prefix: str = "") -> pa.Array:
    """(n,) large_string: the prefix and the numbers 0 ... n - 1, of at least so many digits.

    Made by Arrow: a list of texts takes ten times the memory.
    """
    return joined(prefix, pc.utf8_lpad(pa.array(np.arange(n)).cast(pa.large_string()), digits, "0"))


def numbered_parts(prefixes: Iterable[str], lengths: Iterable[int], digits: int) -> pa.Array:
    """(sum of lengths,) large_string: `numbered` of each part, one part after another."""
    return pa.concat_arrays([numbered(n, digits, text) for text, n in zip(prefixes, lengths, strict=True)])


def repeated(values: Sequence[str | None], lengths: Sequence[int]) -> pa.Array:
    """(sum of lengths,) large_string: each value as often as its part is long."""
    rows = pa.array(np.repeat(np.arange(len(values)), lengths))
    return pa.array(values, pa.large_string()).take(rows)


def make_source(
    kind: str,
    origin: str,
    options: Options,
    ids: pa.Array | pa.ChunkedArray,
    images: Images,
    digest: Any,
    labels: pa.Array | pa.ChunkedArray | None = None,
    groups: Mapping[str, pa.Array | pa.ChunkedArray] | None = None,
    names: Mapping[str | None, str] | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Check and assemble a source; every kind of data ends here.

    Args:
        options: their label_names name ``labels``, their groups choose among ``groups``.
        digest: JSON-able evidence of the content, becomes the fingerprint.
        names: original name (None: there is none) -> the column that it became.

    Raises:
        KdbiasError: no samples, ids that are missing or repeated, labels without a name, a group that does
            not exist.
    """
    ids = as_strings(ids)
    if not len(ids):
        raise KdbiasError(f"{origin}: holds no samples")
    require_unique(ids, origin)
    if options.label_names is not None:
        known = len(ids) - (0 if labels is None else labels.null_count)
        labels = _named(origin, labels, options.label_names)
        if hidden := known - (len(ids) - labels.null_count):
            notes = (*notes, f"{counted(hidden, 'label')} of {_NO_CLASS} read as missing")
    if labels is not None:
        labels = as_strings(labels)
        if labels.null_count == len(labels):
            labels = None
    kept, renamed = _kept(origin, groups or {}, options.groups)
    return Source(
        kind=kind,
        origin=origin,
        ids=ids,
        labels=labels,
        groups=kept,
        images=images,
        fingerprint=fingerprints.of_json([kind, digest]),
        total=len(ids),
        names={name: role for name, role in (names or {}).items() if name not in (None, role)},
        notes=(*notes, *renamed),
    )


def _named(
    origin: str, labels: pa.Array | pa.ChunkedArray | None, names: Sequence[str]
) -> pa.Array | pa.ChunkedArray:
    """Names of integer labels 0..len(names)-1; -1 is none, as where a test set's labels are hidden."""
    if labels is None:
        raise KdbiasError(f"{origin}: label_names has {counted(len(names), 'name')}, but there are no labels")
    try:
        numbers = labels.cast(pa.int64())
    except pa.ArrowException as error:
        raise KdbiasError(f"{origin}: label_names need integer labels ({error})") from None
    numbers = pc.if_else(pc.equal(numbers, _NO_CLASS), None, numbers)
    span = pc.min_max(numbers).as_py()
    if span["min"] is not None and (span["min"] < 0 or span["max"] >= len(names)):
        raise KdbiasError(
            f"{origin}: labels run from {span['min']} to {span['max']}, but label_names has "
            f"{counted(len(names), 'name')}"
        )
    return pa.array(list(names), pa.large_string()).take(numbers)


def _kept(
    origin: str, groups: Mapping[str, pa.Array | pa.ChunkedArray], wanted: Sequence[str] | None
) -> tuple[dict[str, pa.Array], list[str]]:
    """The groups that were asked for, in their own order (all where none were) and plain types, and notes.

    Those that would collide with a column of kdbias's own tables get the prefix ``data_``.
    """
    for name in wanted or ():
        require_column(origin, name, groups, " for groups")
    chosen = {name: values for name, values in groups.items() if wanted is None or name in wanted}
    kept: dict[str, pa.Array] = {}
    notes = []
    for name, values in chosen.items():
        new = name
        while is_own(new) or (new != name and new in chosen):
            new = f"data_{new}"
        if new != name:
            notes.append(f"column {name!r} is kept as {new!r}")
        kept[new] = as_plain(values, name, origin)
    return kept, notes
