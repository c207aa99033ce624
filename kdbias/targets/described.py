"""Samples as a target sees them without their vectors."""

from typing import Any, Protocol

import pyarrow as pa


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
