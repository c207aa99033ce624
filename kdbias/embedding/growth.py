"""A table of data that have grown: what is known of them is taken from it, the rest is embedded.

The new table is made beside the old one, in ``.next``, by the same plan and with the same files as any other,
and takes its place once it is whole: until then the old one is there for everybody, and a run that was killed
goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias import progress
from kdbias.data.image_facts import digest_of
from kdbias.data.opening import Source
from kdbias.data.settings import Reading
from kdbias.embedding.embedded import Embedded, joined
from kdbias.embedding.inputs import Inputs
from kdbias.embedding.parts import Part, Parts
from kdbias.errors import KdbiasError
from kdbias.tables.columns import IMAGE, IMAGE_DIGEST
from kdbias.tables.embedding_parts import normalise, widen
from kdbias.tables.embedding_record import STAGE
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import remove_tree
from kdbias.tables.joins import align, shown
from kdbias.tables.mirrors import locked
from kdbias.tables.parquet_file import read_footer, read_table
from kdbias.tables.provenance import inputs_in
from kdbias.tables.run_files import RECORD, STAGED, complete, put_back, put_forward
from kdbias.tables.run_record import read_record, record_of, refuse_changes
from kdbias.wording import counted

NEXT = ".next"
_FREE = {declared.name for declared in Reading.declared()} | {"where", "rows_per_part"}
"""Keys of a configuration that decide which samples there are, not what vector one has."""
_CHUNK = 256


@dataclass(frozen=True)
class Growth:
    """What a finished table knows of data.

    Attributes:
        table: the table.
        known: (n,) int64, its row for each sample of the data, -1 for one that is to be embedded.
        changes: what differs, for the record: ``from`` (the table's fingerprint), how many samples are
            ``kept``, ``added``, ``changed`` (other content under the same id) and ``removed``.
    """

    table: EmbeddingTable
    known: np.ndarray
    changes: dict[str, Any]
    _ends: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = np.cumsum([read_footer(part).num_rows for part in self.table.parts])
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_part", lru_cache(4)(self._read))

    def taken(self, part: Part) -> Embedded:
        """The stored vectors of those samples of a part that are known; their norms are what they were."""
        rows = part.start + np.flatnonzero(self.known[part.start : part.stop] >= 0)
        places = self.known[rows]
        files = np.searchsorted(self._ends, places, side="right")
        found: list[Embedded] = []
        for file in np.unique(files):
            mine = files == file
            stored: Embedded = self._part(int(file))  # type: ignore[attr-defined]
            start = int(self._ends[file]) - len(stored.vectors)
            found.append(stored.only(places[mine] - start, rows[mine]))
        return joined(found) if found else self._part(0).only(rows, rows)  # type: ignore[attr-defined]

    def _read(self, file: int) -> Embedded:
        """All of a part of the table."""
        part, d = self.table.parts[file], self.table.d
        names = [
            name for name in read_footer(part).schema.to_arrow_schema().names if name not in self._others
        ]
        table = read_table(part, names)

        def vectors(name: str) -> np.ndarray | None:
            if name not in names:
                return None
            lists = table.column(name).combine_chunks()
            lists = lists if isinstance(lists, pa.Array) else pa.concat_arrays(lists.chunks)
            return widen(lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, d))

        def numbers(name: str) -> np.ndarray | None:
            return table.column(name).to_numpy() if name in names else None

        n, units = table.num_rows, vectors("embedding")
        assert units is not None
        facts, digests = np.full((n, len(IMAGE)), np.nan, np.float32), np.zeros(n, np.uint64)
        if set(IMAGE) <= set(names):
            facts = np.stack([table.column(name).to_numpy() for name in IMAGE], axis=1).astype(np.float32)
        if IMAGE_DIGEST in names:
            digests = pc.fill_null(table.column(IMAGE_DIGEST), 0).to_numpy()
        rows, flipped = np.arange(n), vectors("embedding_flip")
        norms = numbers("norm"), numbers("norm_flip")
        return Embedded(rows, units, flipped, [], {}, facts, digests, norms[0], norms[1])

    @property
    def _others(self) -> set[str]:
        return {"sample_id", "label", *self.table.group_columns}


class GrownParts(Parts):
    """The parts of a table that takes what it can from an earlier one."""

    def __init__(self, growth: Growth, *of_parts: Any) -> None:
        super().__init__(*of_parts)
        self.growth, self.changes = growth, growth.changes

    def rows_of(self, part: Part) -> np.ndarray:
        """The rows of a part that are to be embedded."""
        return part.start + np.flatnonzero(self.growth.known[part.start : part.stop] < 0)

    def write(self, part: Part, found: Embedded) -> None:
        """Write a part of what was embedded now and what is known."""
        ids, where = self.source.ids.take(pa.array(found.rows)), f"embeddings of {self.teacher}"
        found.vectors, found.norms = normalise(found.vectors, ids, where)
        if self.plan.flip:
            flipped = np.empty((0, self.plan.dim), np.float32) if found.flipped is None else found.flipped
            found.flipped, found.flip_norms = normalise(flipped, ids, f"mirrored {where}")
        super().write(part, joined([found, self.growth.taken(part)]))


def recover(out: Path) -> None:
    """Complete, or undo, what a kill interrupted while one table took another's place."""
    if (out / STAGED / RECORD).exists():
        with locked(out):
            complete(out, STAGE)


def growth_of(out: Path, opened: Inputs) -> Growth | None:
    """What the table in a folder knows of other data than its own, which is said; None where it is of these.

    None, too, where there is no table.

    A folder of images, or a list, shows no change of a file that keeps its size: such data are compared by
    the digests of their images, too.

    Raises:
        KdbiasError: the table is unfinished, was made otherwise, or knows no sample of the data.
    """
    if not (out / RECORD).exists() and not put_back(out, STAGE):
        return None
    record, source, settings = record_of(out, STAGE), opened.source, opened.settings
    same = inputs_in(record).get("data") == opened.inputs["data"]
    if record.get("status") != "finished":
        if same:
            return None
        raise KdbiasError(
            f"{out} is unfinished, and of other data: complete it with the command that began it, or start "
            "over with --overwrite"
        )
    refuse_changes(out, _vital(record), _vital(opened.made_from), opened.defaults)
    table = EmbeddingTable.open(out)
    known = align(source.ids, table.ids(), str(source.origin), str(out), allow_missing=True)
    if not (known >= 0).any():
        raise KdbiasError(
            f"{out} holds none of the {counted(source.n, 'sample')} of {source.origin}, so it is no earlier "
            "state of them; choose another -o, or start over with --overwrite"
        )
    changed, unknown = _compared(source, table, known, settings.workers)
    if same and not len(changed):
        return None
    if same and not settings.plan:
        discard(out)  # what was begun for other images by the same names cannot be told from what is needed
    known[changed] = -1
    added = np.flatnonzero(known < 0)
    some = {
        "added": source.ids.take(pa.array(added[~np.isin(added, changed)])),
        "changed": source.ids.take(pa.array(changed)),
        "removed": table.ids().filter(pc.invert(pc.is_in(table.ids(), value_set=source.ids))),
    }
    counts = {"kept": int((known >= 0).sum())} | {name: len(ids) for name, ids in some.items()}
    progress.say(_told(out, counts["kept"], some, unknown))
    return Growth(table, known, {"from": table.fingerprint, **counts})


def _told(out: Path, kept: int, some: dict[str, pa.Array], unknown: int) -> str:
    """What growing does, on one line; ``some`` are the ids that were added, changed and removed."""
    told = [f"{kept:,} kept"]
    told += [f"{len(ids):,} {name} ({shown(ids)})" if len(ids) else f"0 {name}" for name, ids in some.items()]
    line = f"{out} grows: {', '.join(told)}"
    if unknown:
        line += (
            f"; of {unknown:,} an earlier version kept no digest of the image: they are taken as unchanged "
            "by their ids"
        )
    return line


def _vital(made_from: dict[str, Any]) -> dict[str, Any]:
    """What decides the vector of a sample."""
    config = {key: value for key, value in made_from["config"].items() if key not in _FREE}
    return {"config": config, "inputs": {"teacher": made_from["inputs"].get("teacher")}}


def _compared(
    source: Source, table: EmbeddingTable, known: np.ndarray, workers: int
) -> tuple[np.ndarray, int]:
    """Rows of the data whose image is another one than the table's, and of how many that is not known."""
    stored = table.image_digests()
    rows = np.flatnonzero(known >= 0)
    unknown = int((stored[known[rows]] == 0).sum())
    rows = rows[stored[known[rows]] != 0]

    def differing(some: np.ndarray) -> list[int]:
        return [row for row in some.tolist() if _digest(source, row) != stored[known[row]]]

    chunks: Iterator[np.ndarray] = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
    changed: list[int] = []
    with progress.bar(len(rows), "images", "compare") as bar, ThreadPoolExecutor(max(1, workers)) as pool:
        for found in pool.map(differing, chunks):
            changed += found
            bar.update(min(_CHUNK, len(rows)))
    return np.asarray(changed, np.int64), unknown


def _digest(source: Source, row: int) -> int | None:
    """The digest of an image; None where it cannot be read, which embedding it then says."""
    try:
        return digest_of(source.read(row))
    except Exception:
        return None


def next_folder(out: Path, opened: Inputs) -> Path:
    """Where the next table is made; what a killed run made there of other data is removed."""
    folder = out / NEXT
    if folder.is_symlink():
        raise KdbiasError(f"{folder} is a link, which kdbias did not make; remove it")
    try:
        refuse_changes(folder, read_record(folder), opened.made_from, opened.config)
    except KdbiasError:
        remove_tree(folder)
    return folder


@contextlib.contextmanager
def home_of(out: Path, growth: Growth | None, opened: Inputs) -> Iterator[Path]:
    """The folder to make a table in: ``out``, or beside the table there, whose place it takes in the end."""
    if growth is None:
        yield out
        return
    with locked(out):
        yield next_folder(out, opened)
        put_forward(out, STAGE, out / NEXT)


def discard(out: Path) -> None:
    """Remove what an earlier call began beside a table."""
    if os.path.isdir(out / NEXT):
        remove_tree(out / NEXT)
