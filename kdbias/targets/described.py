"""Samples as a target sees them without their vectors."""

from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from kdbias.data.source import Source
from kdbias.tables.embedding_table import no_column


class Described(Protocol):
    """Samples with their columns: an embedding table, or data that are still to be embedded."""

    @property
    def path(self) -> object:
        """What they are called."""
        ...

    @property
    def n(self) -> int:
        """How many there are."""
        ...

    @property
    def group_columns(self) -> list[str]:
        """Names of the columns beside id and label."""
        ...

    def ids(self) -> pa.Array:
        """(n,) large_string, unique."""
        ...

    def labels(self) -> pa.Array:
        """(n,) large_string with nulls."""
        ...

    def column(self, name: str) -> pa.Array:
        """(n,) values; raises KdbiasError where there is no such column."""
        ...


class Made(Protocol):
    """Embeddings, or what will make them."""

    @property
    def path(self) -> object:
        """What they are called."""
        ...

    @property
    def d(self) -> int:
        """Dimensions."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """``teacher``, ``config`` and ``inputs`` of their run record."""
        ...


@dataclass(frozen=True)
class Awaited:
    """The embedding table that data will become, as far as they tell of it."""

    source: Source
    label_column: str | None = None

    @property
    def path(self) -> str:
        """What the user named."""
        return self.source.origin

    @property
    def n(self) -> int:
        """Samples; images that cannot be read will be missing."""
        return self.source.n

    @property
    def group_columns(self) -> list[str]:
        """Columns beside id and label."""
        return list(self.source.groups)

    def ids(self) -> pa.Array:
        """(n,) large_string."""
        return self.source.ids

    def labels(self) -> pa.Array:
        """(n,) large_string with nulls."""
        return pa.nulls(self.n, pa.large_string()) if self.source.labels is None else self.source.labels

    def column(self, name: str) -> pa.Array:
        """(n,) values; raises KdbiasError where there is no such column."""
        if name == "label":
            return self.labels()
        if name not in self.source.groups:
            raise no_column(self.path, name, self.group_columns, {"label_column": self.label_column})
        return self.source.groups[name]
