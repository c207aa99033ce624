"""The embedding table: a folder of Parquet parts, one row a sample, unit vectors as fixed-size lists."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.tables import columns, fingerprints, provenance
from kdbias.tables.columns import as_names, as_plain, without_missing
from kdbias.tables.embedding_parts import ROW_GROUP, normalise, widen, write_part
from kdbias.tables.embedding_record import STAGE, are_recorded, record_of_table, require_parts, require_rows
from kdbias.tables.given import as_column, as_matrix
from kdbias.tables.joins import ColumnParts, Ids, as_strings, require_unique, shown
from kdbias.tables.listing import list_parts, part_name
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import require_columns
from kdbias.tables.parted_table import PartedTable
from kdbias.tables.provenance import options_in
from kdbias.tables.run_record import Run
from kdbias.wording import counted, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NUMBERS = 1 << 19  # to widen and normalise at a time while they are in the processor's cache


def write_embedding_table(
    out: str | os.PathLike[str],
    ids: Any,
    vectors: Any,
    labels: Any = None,
    groups: Mapping[str, Any] | None = None,
    dtype: str = "float16",
    config: dict[str, Any] | None = None,
    inputs: dict[str, str] | None = None,
    overwrite: bool = False,
    rows_per_part: int = 65_536,
) -> "EmbeddingTable":
    """Normalise vectors that are already in memory and write a complete table.

    Args:
        out: folder to write.
        ids: (n,) unique texts or numbers: an Arrow or NumPy array, a list, a pandas Series.
        vectors: (n, d) numbers: an array, a tensor, a list of rows, a Series of them; normalised here.
        labels: (n,) plain values, given like ``ids``; those that say there is none (NaN, ``"nan"``, ``""``,
            see `kdbias.tables.columns`) are null.
        groups: further such columns by name.
        dtype: how vectors are stored, ``float16`` or ``float32``.
        config: what made the vectors, for the record.
        inputs: fingerprint of each input by its role, where together they stand for all of the above;
            default: digests of the vectors and of the columns.
        overwrite: replace a table made from something else, which is refused otherwise.
        rows_per_part: samples in one Parquet file.

    Raises:
        ConfigChangedError: ``out`` holds a table made from other vectors, columns or ``config``.
        KdbiasError: repeated ids, lengths that differ, vectors that are zero or not finite or of different
            lengths, groups of no plain values.
    """
    ids = as_column(ids, "sample ids")
    ids = ids if isinstance(ids, pa.StringArray) else as_strings(ids)
    require_unique(ids, "sample ids")
    vectors = as_matrix(vectors, "vectors")
    labels = None if labels is None else as_names(as_column(labels, "labels"))
    groups = {
        name: without_missing(as_column(values, f"the group column {name!r}"))
        for name, values in (groups or {}).items()
    }
    for name, column in [("vectors", vectors), ("labels", labels), *groups.items()]:
        if column is not None and len(column) != len(ids):
            raise KdbiasError(
                f"{counted(len(ids), 'sample id')}, but {len(column):,} {name}; each sample needs one of them"
            )
    plain = {name: as_plain(column, name, out) for name, column in groups.items()}
    unit, norms = normalise(vectors, ids)
    if inputs is None:
        beside = [list(plain), fingerprints.of_arrays(labels, *plain.values()), dtype]
        inputs = {
            "vectors": fingerprints.of_arrays(vectors, ids),
            "columns": fingerprints.of_json(beside),
        }
    run = Run.open(out, STAGE, config or {}, inputs, overwrite)
    if run.state == "finished":
        return EmbeddingTable.open(out)
    contents = []
    for index, start in enumerate(range(0, len(ids), rows_per_part)):
        rows = slice(start, start + rows_per_part)
        length = len(unit[rows])
        doc = provenance.document(
            STAGE.name, run.record["config"], run.record["inputs"], {"rows": length}, 0.0, part=index
        )
        content = write_part(
            run.out / part_name(index),
            ids.slice(start, length),
            labels.slice(start, length) if labels is not None else None,
            {name: column.slice(start, length) for name, column in plain.items()},
            norms[rows],
            unit[rows],
            doc,
            dtype,
        )
        contents.append(content)
    counts = {"samples": len(ids), "parts": len(contents)}
    list_parts(run.out, len(ids), provenance.document(STAGE.name, run.record["config"], inputs, counts, 0.0))
    run.finish(counts, 0.0, fingerprint=fingerprints.of_json(contents))
    return EmbeddingTable.open(out)


@dataclass(frozen=True, repr=False)
class EmbeddingTable(Result):
    """A finished embedding table; opening reads its listing, else footers.

    Attributes:
        path: the folder.
        stored: its parts.
        d: dimension.
        group_columns: names of the columns beside id, label, norms and vectors.
        has_flip: whether it has mirrored views.
        has_flip_norms: whether it has how long they were.
        fingerprint: digest of its content, as recorded when it was finished.
        provenance: the run record of the stage that wrote it.
    """

    path: Path
    stored: PartedTable
    d: int
    group_columns: list[str]
    has_flip: bool
    has_flip_norms: bool
    fingerprint: str
    provenance: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str], require_finished: bool = True) -> "EmbeddingTable":
        """Open a table, checking that it is whole and its parts agree.

        Raises:
            KdbiasError: no table there, unfinished, or parts that differ in columns or dimension.
        """
        folder = local_path(path)
        record = record_of_table(folder, require_finished)
        known = record.get("fingerprint")
        lacking = (*columns.IMAGE, columns.IMAGE_DIGEST)  # of parts whose images nobody looked at
        require_parts(folder)
        stored = PartedTable.open(folder, lacking=lacking, fingerprint=known or "")
        require_rows(folder, stored.num_rows, record if require_finished else {})
        if require_finished and not are_recorded([part.content for part in stored.parts], known):
            raise KdbiasError(
                f"{folder}: its parts are not those that its record lists; run kdbias embed again with "
                "--overwrite"
            )
        require_columns(stored.files[0], stored.schema, ("sample_id", "label", "norm", "embedding"))
        names = [name for name in stored.column_names if name not in lacking]
        return cls(
            path=folder,
            stored=stored,
            d=stored.schema.field("embedding").type.list_size,
            group_columns=[name for name in names if name not in columns.EMBEDDING],
            has_flip="embedding_flip" in names,
            has_flip_norms="norm_flip" in names,
            fingerprint=known or fingerprints.of_json([fingerprints.of_file(part) for part in stored.files]),
            provenance=record,
        )

    @property
    def n(self) -> int:
        """Samples."""
        return self.stored.num_rows

    @property
    def parts(self) -> list[Path]:
        """Its Parquet files in order."""
        return self.stored.files

    @property
    def cut(self) -> list[int]:
        """Rows of each part."""
        return list(self.stored.lengths)

    def column(self, name: str) -> pa.Array:
        """One column (not vectors) as a contiguous Arrow array of n values."""
        if name not in ("sample_id", "label", "norm", *self.group_columns) and not (
            name == "norm_flip" and self.has_flip_norms
        ):
            raise no_column(self.path, name, self.group_columns, options_in(self.provenance))
        values = self.stored.column(name)
        return as_strings(values) if name in ("sample_id", "label") else values.combine_chunks()

    def ids(self) -> pa.Array:
        """(n,) large_string; refuses repeated ids."""
        return self.id_parts().array()

    def id_parts(self) -> Ids:
        """The same, a part at a time; refuses repeated ids."""
        ids = self.stored.ids()
        require_unique(ids, str(self.path))
        return ids

    def labels(self) -> pa.Array:
        """(n,) large_string with nulls."""
        return self.column("label")

    def column_parts(self, name: str) -> ColumnParts:
        """The label, large_string, or a group column, a part at a time."""
        kind = pa.large_string() if name == "label" else self.stored.schema.field(name).type
        stored = self.stored.parts_of(name)
        return ColumnParts(stored.lengths, lambda part: stored.read(part).cast(kind))

    def blocks(self) -> list[str | Table]:
        """How many vectors, and the columns beside them."""
        beside = ", ".join(self.group_columns) or "none"
        return [
            f"{self.path}: {counted(self.n, 'sample')} x {counted(self.d, 'dimension')}; columns: {beside}"
        ]

    def to_pandas(self) -> "pd.DataFrame":
        """A row a sample: id, label, columns and norm; `vectors` gives the vectors, as one array."""
        columns = {name: self.column(name) for name in self.group_columns}
        named = {"sample_id": self.ids(), "label": self.labels(), **columns, "norm": self.norms()}
        return pa.table(named).to_pandas()

    def plot(self) -> "Figure":
        """Up to 3,000 samples on the two directions in which they differ most, by label."""
        from kdbias.display import plots

        rows = np.sort(np.random.default_rng(0).permutation(self.n)[:3000])
        x = self.vectors(np.float64, positions=rows)
        x -= x.mean(axis=0)
        axes, strengths, _ = np.linalg.svd(x, full_matrices=False)
        told = float((strengths[:2] ** 2).sum() / max((strengths**2).sum(), 1e-12))
        title = f"{self.path.name}: two directions, {told:.0%} of the variance"
        labels = self.labels().take(pa.array(rows)).to_pylist()
        return plots.figure(plots.scatter((axes * strengths)[:, :2], labels, title), width=5.2, height=5.0)

    def norms(self) -> np.ndarray:
        """(n,) float32: L2 norms before normalising."""
        return self.column("norm").to_numpy(zero_copy_only=False)

    def flip_norms(self) -> np.ndarray | None:
        """(n,) float32 of the mirrored views; None where the table lacks them."""
        return self.column("norm_flip").to_numpy(zero_copy_only=False) if self.has_flip_norms else None

    def image_facts(self) -> np.ndarray | None:
        """(n, 6) float32 `columns.IMAGE`, NaN where an image was not looked at; None where none was.

        Tables of precomputed vectors have none, nor have parts that an earlier version wrote.
        """
        found = np.full((self.n, len(columns.IMAGE)), np.nan, np.float32)
        for rows, part in self._of_images(columns.IMAGE):
            found[rows] = np.stack([values.to_numpy() for values in part.columns], axis=1)
        return found if np.isfinite(found[:, 0]).any() else None

    def image_digests(self) -> np.ndarray:
        """(n,) uint64 digests of the images' content, 0 where it is not known."""
        found = np.zeros(self.n, np.uint64)
        for rows, part in self._of_images([columns.IMAGE_DIGEST]):
            found[rows] = pc.fill_null(part.column(0).cast(pa.uint64()), 0).to_numpy()
        return found

    def _of_images(self, names: Sequence[str]) -> Iterator[tuple[slice, pa.Table]]:
        """The rows and columns of those parts that have them, a part at a time."""
        start = 0
        for part, rows in enumerate(self.stored.lengths):
            with self.stored.opened(part) as file:
                if set(names) <= set(file.schema.names):
                    yield slice(start, start + rows), file.read(names)
            start += rows

    def batches(self, rows: int = ROW_GROUP, column: str = "embedding") -> Iterator[tuple[int, np.ndarray]]:
        """Stream ``(first row, (m, d) float32 unit vectors)``, m <= rows, in table order.

        Rows are renormalised, because float16 storage rounds them off the sphere.
        """
        for start, stored in self._stored(rows, column):
            yield start, self.unit(stored, start)

    def vectors(
        self, dtype: Any = np.float32, column: str = "embedding", positions: np.ndarray | None = None
    ) -> np.ndarray:
        """Vectors as one C-contiguous array of unit rows (renormalised in float32).

        Args:
            column: ``embedding`` or ``embedding_flip``.
            positions: (m,) ascending row numbers to keep; others never stay in memory. None keeps all n.

        Returns:
            (m, d) or (n, d) of ``dtype``.
        """
        out = np.empty((self.n if positions is None else len(positions), self.d), dtype=dtype)
        done = 0
        for start, stored in self._stored(max(1, _NUMBERS // self.d), column):
            kept: np.ndarray | None = None
            if positions is not None:
                first, last = np.searchsorted(positions, [start, start + len(stored)])
                kept = positions[first:last]
                stored = stored[kept - start]
            block = out[done : done + len(stored)]
            done += len(stored)
            if out.dtype == np.float32:
                self.unit(stored, start, kept, block)
            else:
                block[...] = self.unit(stored, start, kept)
        return out

    def _stored(self, rows: int, column: str) -> Iterator[tuple[int, np.ndarray]]:
        """Stream (first row, (m, d) vectors as they are stored), m <= rows, holding little more in memory."""
        if column == "embedding_flip" and not self.has_flip:
            raise KdbiasError(f"{self.path} has no embedding_flip; embed again with --flip")
        return self.stored.vectors(rows, column, self.d)

    def unit(
        self,
        stored: np.ndarray,
        start: int,
        positions: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Stored vectors as float32 unit rows; they stand at these positions, else from ``start`` on."""
        vectors = widen(stored, out)
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        if not (np.isfinite(norms).all() and norms.all()):
            bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
            rows = start + bad if positions is None else positions[bad]
            raise KdbiasError(
                f"{self.path}: {counted(len(rows), 'vector', 'is/are')} zero or not finite "
                f"({shown(self.column('sample_id'), rows)}); "
                "embed these samples again"
            )
        vectors /= norms[:, None]
        return vectors


def no_column(
    path: object, name: str, group_columns: Sequence[str], config: Mapping[str, Any]
) -> KdbiasError:
    """The refusal of a column that a table, made with this configuration, does not have."""
    if name == config.get("label_column"):
        return KdbiasError(f"{path} has no column {name!r}; {name!r} is its label: name it 'label'")
    known = ["label", *group_columns]
    return KdbiasError(f"{path} has no column {name!r}; it has: {', '.join(known)}{nearest(name, known)}")
