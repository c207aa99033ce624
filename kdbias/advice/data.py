"""What an advice looks at: the measured samples, and of many a draw that is small enough to be quick."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.advice.settings import AdviseSettings
from kdbias.errors import KdbiasError
from kdbias.measurement.comparison import remembered_path
from kdbias.measurement.density import hardness
from kdbias.measurement.files import UNIFORMITY, read_uniformity
from kdbias.measurement.suspects import blind_to, misfits
from kdbias.placing import placed
from kdbias.scratch import uri_of
from kdbias.sphere.all_pairs import all_pairs
from kdbias.sphere.duplicates import NEAR_DUPLICATE_COSINE, first_with_same_vector
from kdbias.tables.density_table import DENSITY, DensityTable, read_density
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import absent
from kdbias.tables.joins import encode
from kdbias.tables.listing import located
from kdbias.tables.run_record import RECORD, read_record
from kdbias.targets.clusters import EACH_ALONE, clusters_of
from kdbias.targets.opening import OpenTarget, open_target
from kdbias.targets.settings import Aiming, Named
from kdbias.weighting.samples import EmbeddingSource
from kdbias.wording import counted

_NEIGHBOURS = 64
_FENCE = 3.0  # interquartile ranges above the upper quartile: Tukey's "far out"


@dataclass(frozen=True)
class Counts:
    """How many samples there are, and how many of them are odd.

    Attributes:
        samples: those that were counted among.
        labels: how many labels they have; 0 without.
        unreadable: images that could not be embedded, which are not among the samples.
        copies: samples with the vector of an earlier one.
        near: samples with another one at cosine >= 0.999 (copies among them).
        isolated: samples that `uniformity` calls isolated; where it does not say, those whose k-th neighbour
            is beyond Tukey's outer fence, the upper quartile of that distance plus three interquartile
            ranges.
        judged, misfit: samples whose label can be judged, and those nearer to another label's centroid.
    """

    samples: int
    labels: int
    unreadable: int
    copies: int
    near: int
    isolated: int
    judged: int
    misfit: int

    @property
    def blind(self) -> bool:
        """Whether the teacher does not tell the labels apart."""
        return blind_to(self.judged, self.misfit)


@dataclass(frozen=True)
class Data:
    """Measured samples.

    Attributes:
        named: what the user named.
        density: what `uniformity` wrote of them; None where that was not run, or not named.
        table: their embeddings.
        order: (n,) position in the table of each measured sample, in the order of the density table.
        rows: (s,) ascending positions in the table that are looked at; all of few.
        x: (s, d) float32 unit rows of these.
    """

    named: Path
    density: DensityTable | None
    table: EmbeddingTable
    order: np.ndarray
    rows: np.ndarray
    x: np.ndarray

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(self.order)

    @property
    def whole(self) -> bool:
        """Whether all of them are looked at."""
        return len(self.rows) == self.n

    @property
    def drawn(self) -> str:
        """Of how many something is told, where these are not all: the end of a sentence."""
        return "" if self.whole else f" (of {counted(len(self.rows), 'sample')} drawn from {self.n:,})"

    @cached_property
    def first(self) -> np.ndarray:
        """(s,) position among those looked at of the first with the same vector."""
        return first_with_same_vector(self.x)

    def column(self, name: str) -> pa.Array:
        """The values of a column for the samples that are looked at."""
        return self.table.column(name).take(pa.array(self.rows))

    @cached_property
    def measured(self) -> dict[str, Any] | None:
        """``uniformity.json`` beside the density table."""
        if self.density is None or not (self.density.path.parent / UNIFORMITY).exists():
            return None
        return read_uniformity(self.density.path.parent)

    @property
    def suspects(self) -> dict[str, Any] | None:
        """What `uniformity` says of suspects; None where it was not run, or before it looked for them."""
        return (self.measured or {}).get("suspects")

    def counts(self, threads: int | None) -> Counts:
        """Of all samples where they were measured, else of those that are looked at."""
        labels, suspects = self.table.labels(), self.suspects
        known = (
            len(labels.unique().drop_null()),
            (self.table.provenance.get("counts") or {}).get("failures", 0),
        )
        fit = self._misfits() if suspects is None else suspects["labels"]
        if self.density is not None:
            copies = int((self.density.first_equal != np.arange(self.n)).sum())
            near = int((self.density.numbers("near_duplicates") > 0).sum())
            if suspects is not None:
                far = suspects["words"].get("isolated", 0)
            else:
                far = _far_out(self.density.numbers("knn_distance"))
            return Counts(self.n, *known, copies, near, far, **fit)
        copies = int((self.first != np.arange(len(self.x))).sum())
        k = min(_NEIGHBOURS, len(self.x) - 1)
        if not k:
            return Counts(len(self.x), *known, copies, 0, 0, **fit)
        pairs = all_pairs(self.x, k=k, near=NEAR_DUPLICATE_COSINE, threads=threads)
        assert pairs.counts is not None
        assert pairs.cosines is not None
        distance = np.sqrt(np.maximum(2 - 2 * pairs.cosines[:, -1].astype(np.float64), 0))
        return Counts(len(self.x), *known, copies, int((pairs.counts > 0).sum()), _far_out(distance), **fit)

    def _misfits(self) -> dict[str, int]:
        """Samples looked at whose label can be judged, and those nearer to another label's centroid."""
        codes = encode(self.column("label"))[0]
        own = hardness(self.x, codes)
        other = misfits(self.x, codes, own, "cpu")
        judged, misfit = (0, 0) if other is None else (np.isfinite(own).sum(), (other >= 0).sum())
        return {"judged": int(judged), "misfit": int(misfit)}

    def target(self, aim: Aiming) -> OpenTarget:
        """What was named, for the samples that are looked at."""
        opened = open_target(aim, self.table)
        if len(self.rows) == self.table.n:
            return opened
        masses, codes, clusters = opened.masses, opened.codes, opened.clusters
        if opened.vectors is None and masses is not None:
            masses = masses[self.rows]
            if not masses.sum() > 0:
                raise KdbiasError(
                    f"none of the {len(self.rows):,} samples that are looked at count for "
                    f"{opened.named.text}; look at more with --most"
                )
            masses = masses / masses.sum()
        if codes is not None:
            codes = codes[0][self.rows], codes[1] if opened.vectors is not None else codes[1][self.rows]
        if clusters is not None:
            clusters = clusters[0][self.rows], clusters[1]
        return replace(opened, masses=masses, codes=codes, clusters=clusters)


def open_measured(measured: str | os.PathLike[str], settings: AdviseSettings) -> Data:
    """An embedding table, or what `uniformity` wrote of one.

    Raises:
        KdbiasError: it is neither, or the embeddings are gone.
    """
    named = Path(measured)
    if not named.exists():
        raise absent(named, "embedding table or density folder")
    is_density = located(named / DENSITY).exists() if named.is_dir() else named.suffix == ".parquet"
    if not is_density:
        if settings.embeddings is not None:
            raise KdbiasError(f"--embeddings goes with DENSITY; {named} is no folder that uniformity wrote")
        table, density = EmbeddingTable.open(named), None
        order = np.arange(table.n)
    else:
        density = read_density(named)
        table, order = EmbeddingSource(density, settings.embeddings).measured
    rows = np.sort(order)
    if len(rows) > settings.most:
        rows = np.sort(np.random.default_rng(settings.seed).choice(rows, settings.most, replace=False))
    x = table.vectors(positions=None if len(rows) == table.n else rows)
    return Data(named, density, table, order, rows, x)


def remembered_aim(data: Data, settings: Aiming) -> Aiming | None:
    """The target that was named, else that of the measurement; None without one."""
    if settings.towards is not None:
        return Aiming(
            towards=settings.towards, with_column=settings.with_column, cluster_by=settings.cluster_by
        )
    known = (data.measured or {}).get("target")
    if known is None or data.density is None:
        return None
    folder = data.density.path.parent
    record = read_record(folder) if (folder / RECORD).exists() else {}
    towards = placed("target", remembered_path(folder, record, known))
    named = Named.of(towards)
    if named.kind == "reference" and not Path(named.what).exists():
        raise KdbiasError(
            f"{folder} was measured against {towards}, which is gone; name a target with --towards"
        )
    if named.kind == "reference":
        towards = Named(named.kind, near(named.what), None if named.by is None else near(named.by)).text
    clustered = known.get("cluster_by")
    if clustered is None and named.kind == "reference":  # each was alone: say so where that is not usual
        usual = clusters_of(data.table, EmbeddingTable.open(named.what), None)[0]
        clustered = None if usual is None else EACH_ALONE
    return Aiming(towards=towards, with_column=known["with"], cluster_by=clustered)


def near(path: str | os.PathLike[str]) -> str:
    """A path from the current folder on, where it lies in that."""
    short = os.path.relpath(path)
    if uri_of(path) is not None:
        return os.fspath(path)
    return os.fspath(path) if short.startswith(os.pardir) else short


def _far_out(distance: np.ndarray) -> int:
    """How many of (n,) distances, NaN for none, are beyond the outer fence."""
    known = distance[np.isfinite(distance)]
    if not len(known):
        return 0
    lower, upper = np.quantile(known, [0.25, 0.75])
    return int((known > upper + _FENCE * (upper - lower)).sum()) if upper > lower else 0
