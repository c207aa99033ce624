"""Data that a study is to be written for: where they lie, how they are read, what can be judged of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from kdbias.data import TORCHVISION
from kdbias.data.access import is_uri
from kdbias.data.decode import UnreadableImage, decode_image
from kdbias.data.filters import filter_source
from kdbias.data.source import Source, count_distinct
from kdbias.embedding.inputs import named
from kdbias.errors import KdbiasError
from kdbias.studies.biases import Read
from kdbias.studies.sources import open_source
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.provenance import options_in
from kdbias.tables.run_record import RECORD, stage_of
from kdbias.targets.described import Awaited
from kdbias.teachers import PRECOMPUTED
from kdbias.teachers.spec import placed_spec
from kdbias.wording import counted

_LOOKED_AT = 8  # images whose size is looked at
_GROUPS = (2, 20)  # values of a column that is judged by
_COLUMNS = 3  # such columns at most
_PER_CLASS = 10  # samples a label, for labels to count as classes


@dataclass(frozen=True)
class Origin:
    """Data as a study reads them.

    Attributes:
        source: what `kdbias.embed` reads.
        read: names of columns, and root.
        where: conditions on its samples.
        teacher: its spec; stored vectors where there are such.
        data: the samples, those that satisfy the conditions.
    """

    source: str
    read: Read
    where: tuple[str, ...]
    teacher: str
    data: Source

    @classmethod
    def of(cls, place: str | os.PathLike[str], teacher: str | None, read: Mapping[str, Any]) -> Origin:
        """Of data and a teacher, or of an embedding table, which knows both.

        Raises:
            KdbiasError: data without a teacher, or a table that does not say what it was made from.
        """
        name = os.fspath(place)
        if stage_of(name) != "embed":
            if teacher is None:
                raise KdbiasError(
                    f"study --init {name}: name a teacher with --teacher, or give an embedding table"
                )
            read_as = Read.of(read)
            with named(teacher):
                spec = placed_spec(teacher)
            return cls(_placed(name), read_as, (), spec, open_source(name, read_as))
        table = EmbeddingTable.open(name)
        record, config = table.provenance, options_in(table.provenance)
        source = record.get("data")
        if not source:
            raise KdbiasError(
                f"{name}: its {RECORD} names no data, so there are no images to train on; give the data and "
                "--teacher"
            )
        known = {d.name: config.get(d.name) for d in Read.declared()} | {"root": record.get("root")}
        read_as = Read.of(known)
        where = tuple(config.get("where") or ())
        data = filter_source(open_source(source, read_as), where)
        return cls(_placed(source), read_as, where, f"{PRECOMPUTED}:{os.path.abspath(name)}", data)

    def require(self, least: int) -> None:
        """Refuse data of fewer samples."""
        if self.data.n < least:
            raise KdbiasError(
                f"{self.source}: {counted(self.data.n, 'sample')}; a study needs {least} or more"
            )

    @property
    def described(self) -> Awaited:
        """The samples as a target sees them."""
        return Awaited(self.data, self.read.label_column)

    @property
    def stored(self) -> bool:
        """Whether the teacher's vectors lie there already."""
        return self.teacher.startswith(f"{PRECOMPUTED}:")

    def groups(self, wanted: Sequence[str]) -> list[str]:
        """The columns to judge by: those wanted, else the first few of a few values each."""
        columns = {name: values for name, values in self.data.columns().items() if name != "sample_id"}
        for name in wanted:
            if name not in columns:
                raise KdbiasError(f"--group-by {name}: no such column; there are {', '.join(columns)}")
        few = [name for name, values in columns.items() if _is_group(values)]
        return list(wanted) or [name for name in few if name not in self.data.names][:_COLUMNS]

    @property
    def has_classes(self) -> bool:
        """Whether its labels are classes of many samples each, and every sample has one."""
        labels = self.data.labels
        if labels is None or labels.null_count:
            return False
        return 2 <= count_distinct(labels) <= len(labels) / _PER_CLASS

    def side(self) -> int:
        """The shorter side of the smallest of a few images, in pixels.

        Raises:
            KdbiasError: none of them can be read.
        """
        sides = []
        for row in range(0, self.data.n, max(1, self.data.n // _LOOKED_AT)):
            try:
                sides.append(min(decode_image(self.data.read(row)).shape[:2]))
            except UnreadableImage as error:
                reason = f"{self.data.location(row)}: {error.reason}"
        if not sides:
            raise KdbiasError(f"{self.source}: no image can be read ({reason})")
        return min(sides)


def _is_group(values: pa.Array) -> bool:
    """Whether a column has so few values that each can be judged by itself."""
    return _GROUPS[0] <= count_distinct(values) <= min(_GROUPS[1], len(values) // _PER_CLASS)


def _placed(source: str) -> str:
    """The path of data from any folder; what is no path, as it is."""
    return source if is_uri(source) or source.startswith(TORCHVISION) else os.path.abspath(source)


def deployment_of(what: str, origin: Origin) -> Origin:
    """The reference's data: an embedding table's own, or data for the same teacher."""
    if stage_of(what) != "embed":
        if origin.stored:
            raise KdbiasError(
                f"--towards {what} is no embedding table; embed it with the data's teacher: a reference of "
                "images goes with data and --teacher"
            )
        return Origin.of(what, origin.teacher, {})
    found = Origin.of(what, None, {})
    return found if origin.stored else replace(found, teacher=origin.teacher)
