"""A target opened for one embedding table: checked against it, and as its samples see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.sphere.equilibrium.target import (
    Codes,
    Target,
    kernel_means,
    masses_target,
    reference_target,
    sphere_target,
)
from kdbias.sphere.equilibrium.two_sample import TwoSampleTest, two_sample_test
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import nearest_path
from kdbias.tables.joins import as_strings, encode_all
from kdbias.tables.weight_manifest import read_manifest
from kdbias.targets.columns import told_of
from kdbias.targets.fit import require_fit
from kdbias.targets.settings import Aiming, Named


@dataclass(frozen=True)
class OpenTarget:
    """A target for the samples of one table.

    Attributes:
        named: what the user named.
        inputs: fingerprints of the target's files by role, for the record of what is made with it.
        notes: lines for people: what is odd about it.
        vectors: (m, d) float32 unit rows of the reference; None for other kinds.
        masses: of the reference (m,), None = alike; of ``balanced`` those of the data's samples (n,), sum 1.
        clusters: which samples of the data (n,) and of the reference (m,) depend on each other; None: each is
            alone. clustered: the column that says so.
        column: the name of the column that is compared together with the vectors (``--with``).
        codes: its values in the data (n,) and in the reference (m,), or twice the data's without reference.
        table: the reference.
    """

    named: Named
    inputs: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    vectors: np.ndarray | None = None
    masses: np.ndarray | None = None
    column: str | None = None
    codes: Codes | None = None
    clusters: Codes | None = None
    clustered: str | None = None
    table: EmbeddingTable | None = None

    def loaded(self, load: Callable[[EmbeddingTable], np.ndarray]) -> OpenTarget:
        """The target with the vectors of its reference, if it has one, where it was opened without them."""
        return self if self.table is None else replace(self, vectors=load(self.table))

    @property
    def size(self) -> int | None:
        """Samples of the reference; None for other kinds."""
        return None if self.vectors is None else len(self.vectors)

    @property
    def own_masses(self) -> np.ndarray | None:
        """(n,) masses of a ``balanced`` target, which lie on the data themselves; None for other kinds."""
        return self.masses if self.vectors is None else None

    @property
    def own_codes(self) -> np.ndarray | None:
        """(n,) the column's values in the data; None where none is compared together with the vectors."""
        return None if self.codes is None else self.codes[0]

    def of(
        self,
        x: np.ndarray,
        t: Bandwidth,
        apply: Callable[[np.ndarray], np.ndarray],
        groups: Groups | None = None,
        *,
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
        means: Callable[..., np.ndarray] = kernel_means,
    ) -> Target:
        """The target as the samples see it through the mean kernel of t.

        Args:
            x: (g, d) float32 unit rows: of the data, or of their distinct samples where ``groups`` are given.
            t: bandwidth, or several whose kernels are averaged.
            apply: p (g,) -> K p (g,), with the column's kernel where there is one; called for ``balanced``.
            groups: which of the data's rows the g are.
            progress: called with the number of rows done, while a reference is compared.
            means: as of `reference_target`.
        """
        if self.named.kind == "sphere":
            return sphere_target(len(x), x.shape[1], t)
        if self.vectors is None:
            assert self.masses is not None
            q = self.masses if groups is None else groups.collapse(self.masses)
            return masses_target(apply(q), q)
        codes = self._codes(groups)
        return reference_target(
            x,
            self.vectors,
            t,
            self.masses,
            codes=codes,
            clusters=None if self.clusters is None else self.clusters[1],
            threads=threads,
            progress=progress,
            means=means,
        )

    def test(
        self,
        x: np.ndarray,
        t: Bandwidth,
        p: np.ndarray | None = None,
        groups: Groups | None = None,
        seed: int = 0,
    ) -> TwoSampleTest | None:
        """Whether data, as p draws them, and reference differ at all; None without a reference.

        Args:
            x, t, groups: as of `of`.
            p: (g,) sampling probabilities; default alike.
            seed: of draws and permutations.
        """
        if self.vectors is None:
            return None
        codes, clusters = (_of_distinct(known, groups) for known in (self.codes, self.clusters))
        return two_sample_test(
            x, self.vectors, t, p, codes=codes, clusters=clusters, masses=self.masses, seed=seed
        )

    def shares(self, column: str) -> dict[str | None, float] | None:
        """Share of each value of a column in the reference (None: no value).

        None where there is no reference, it has no such column, or the column is empty in it.
        """
        if self.table is None or column not in ("label", *self.table.group_columns):
            return None
        values = as_strings(self.table.column(column))
        if values.null_count == len(values):
            return None
        codes, texts = encode_all(values)
        mass = np.bincount(codes, weights=self.masses)
        return dict(zip(texts.to_pylist(), (mass / mass.sum()).tolist(), strict=True))

    def _codes(self, groups: Groups | None) -> Codes | None:
        return _of_distinct(self.codes, groups)


def _of_distinct(codes: Codes | None, groups: Groups | None) -> Codes | None:
    """Codes of the distinct samples of the data, and of the reference."""
    if codes is None or groups is None:
        return codes
    return codes[0][groups.first], codes[1]


def open_target(
    aim: Aiming, data: EmbeddingTable, load: Callable[[EmbeddingTable], np.ndarray] = EmbeddingTable.vectors
) -> OpenTarget:
    """What the user named, for the samples of ``data``.

    Args:
        load: gives the vectors of a reference, in memory or mapped.

    Raises:
        KdbiasError: no target named, or one that does not fit the data: of another dimension, teacher or
            preprocessing; the data themselves; a single sample; a column that is not there or has one value;
            shares that leave a value out.
    """
    named = aim.named
    if named is None:
        raise KdbiasError("a target is needed; name it with --towards REF, balanced:COLUMN or sphere")
    if named.kind == "sphere":
        return OpenTarget(named)
    if named.kind == "balanced":
        told, inputs = told_of(aim, named, data, None), inputs_of(named)
        return OpenTarget(named, inputs, masses=told.masses, column=aim.with_column, codes=told.codes)
    return _reference(aim, named, data, load)


def unread(table: EmbeddingTable) -> np.ndarray:
    """Room for (n, d) vectors that nobody has read yet, which takes none: see `OpenTarget.loaded`."""
    return np.broadcast_to(np.float32(0), (table.n, table.d))


def inputs_of(named: Named) -> dict[str, str]:
    """Fingerprints of a target's files by role, for the record of what is made with it."""
    if named.kind == "balanced":
        if named.by is not None and not Path(named.by).is_file():
            raise KdbiasError(
                f"{named.by}: no such file; a table of shares has {named.what} and share"
                + nearest_path(named.by)
            )
        return {} if named.by is None else {"towards_shares": fingerprints.of_file(named.by)}
    if named.kind == "sphere":
        return {}
    own = {} if named.by is None else {"towards_weights": read_manifest(named.by).fingerprint}
    return {"towards": EmbeddingTable.open(named.what).fingerprint, **own}


def _reference(
    aim: Aiming, named: Named, data: EmbeddingTable, load: Callable[[EmbeddingTable], np.ndarray]
) -> OpenTarget:
    table = EmbeddingTable.open(named.what)
    notes = require_fit(table, data)
    told = told_of(aim, named, data, table)
    return OpenTarget(
        named,
        inputs_of(named),
        (*notes, *told.notes),
        load(table),
        told.masses,
        aim.with_column,
        told.codes,
        told.clusters,
        told.clustered,
        table,
    )
