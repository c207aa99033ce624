"""Measure: how crowded each sample's neighbourhood is and how uniform the sampled data are."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.density import Bandwidths, choose_bandwidths, hardness, pair_distances, parse_bandwidths
from kdbias.device import parse_bytes, resolve_device
from kdbias.distribution import Scheme, bandwidth_entry, rectify, scheme_entry
from kdbias.errors import KdbiasError
from kdbias.measurement_files import (
    UNIFORMITY,
    Measured,
    read_measured,
    read_schemes,
    write_measured,
    write_neighbors,
    write_schemes,
)
from kdbias.measurement_text import summary_table
from kdbias.sphere.all_pairs import AllPairs, all_pairs, fitting_tile
from kdbias.sphere.duplicates import NEAR_DUPLICATE_COSINE, first_with_same_vector
from kdbias.sphere.equilibrium import solve
from kdbias.sphere.tiles import TILE, seconds_estimate
from kdbias.sphere.workers import available_threads
from kdbias.tables import provenance
from kdbias.tables.density_table import DENSITY
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import read_json, write_json
from kdbias.tables.joins import align
from kdbias.tables.run_record import Run
from kdbias.tables.weight_manifest import read_manifest

__all__ = ["UniformityResult", "summary_table", "uniformity"]

STAGE = "uniformity"
DEFAULT_K = 64
SEARCHES = ("exact",)
RECTIFICATIONS = ("auto", "all", "chosen", "none")
# With --rectification auto the best re-weighting is searched at every bandwidth up to this many samples, at
# the chosen bandwidth alone beyond: the search costs some hundred products with an n x n matrix.
ALL_BANDWIDTHS_UP_TO = 16_384


@dataclass(frozen=True)
class UniformityResult:
    """What `uniformity` measured and where it lies.

    Attributes:
        out: the output folder.
        document: the content of ``uniformity.json``.
        state: ``new`` (all measured now), ``extended`` (schemes or groups added) or ``finished``.
    """

    out: Path
    document: dict[str, Any]
    state: str

    @property
    def density_path(self) -> Path:
        return self.out / DENSITY

    @property
    def uniformity_path(self) -> Path:
        return self.out / UNIFORMITY

    def summary(self) -> str:
        """The table for people: a row a scheme and bandwidth."""
        return summary_table(self.document)


def uniformity(
    embeddings: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    weights: Sequence[str | os.PathLike[str]] = (),
    k: int | None = None,
    t: str | float | Sequence[float] = "auto",
    search: str = "exact",
    device: str = "auto",
    memory: str | int = "4GiB",
    group_by: Sequence[str] = (),
    keep_neighbors: bool = False,
    rectification: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> UniformityResult:
    """Measure density and uniformity of an embedding table, as it is and as each manifest would sample it.

    Writes ``density.parquet`` (a row a sample), ``uniformity.json`` (an entry a scheme), ``schemes.parquet``
    (each scheme's weights and log densities) and, if asked for, ``neighbors.parquet`` into ``output``.
    Calling again with further ``weights`` or ``group_by`` adds them: only the new weights are passed over.

    Args:
        embeddings: folder of an embedding table.
        output: folder to write.
        weights: weight manifests that cover all samples of the table.
        k: neighbours a sample; default 64, or n - 1 if that is smaller.
        t: ``auto`` or bandwidths, the first of which is that of ``log_density``.
        search: how neighbours are found: ``exact``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        memory: most memory to take beside the embeddings, such as ``4GiB``.
        group_by: columns of the table (or ``label``) to report by.
        keep_neighbors: write ``neighbors.parquet``.
        rectification: at which bandwidths to search the best re-weighting: ``all``, ``chosen``, ``none`` or
            ``auto`` (all up to 16,384 samples, else the chosen one).
        threads: CPU threads; default all.
        overwrite: start over in a folder that holds another measurement.
        seed: of the sample on which bandwidths are chosen.

    Raises:
        KdbiasError: bad options, a k that the data cannot have, or weights that do not fit the data.
    """
    started = time.perf_counter()
    table = EmbeddingTable.open(embeddings)
    k = _neighbour_count(k, table.n)
    asked = parse_bandwidths(t)
    if threads is not None and threads < 1:
        raise KdbiasError(f"--threads {threads} is not a number >= 1")
    _require_known("--search", search, SEARCHES)
    _require_known("--rectification", rectification, RECTIFICATIONS)
    groups = {name: table.column(name) for name in dict.fromkeys(group_by)}
    added = _read_weights(weights, table)
    budget = parse_bytes(memory)
    config = {
        "k": k,
        "t": asked or "auto",
        "search": search,
        "rectification": rectification,
        "seed": seed,
    }
    device = resolve_device(device)
    run = Run.open(output, STAGE, config, {"embeddings": table.fingerprint}, overwrite)
    session = _Session(table, run, groups, budget, threads, device)
    if run.state == "finished":
        return session.extend(added, keep_neighbors, started)
    return session.measure(added, keep_neighbors, started)


class _Session:
    """One call of `uniformity` on one table and one output folder."""

    def __init__(
        self,
        table: EmbeddingTable,
        run: Run,
        groups: dict[str, pa.Array],
        budget: int,
        threads: int | None,
        device: str,
    ) -> None:
        self.table, self.run, self.groups, self.budget = table, run, groups, budget
        self.threads = threads or available_threads()
        self.device = device
        self.ids = table.ids()
        self.labels = table.labels()
        self.codes = _codes(self.labels)

    def measure(self, added: list[Scheme], keep_neighbors: bool, started: float) -> UniformityResult:
        """Everything from the vectors: one pass for neighbours, potentials and duplicates."""
        config = self.run.record["config"]
        k, n = config["k"], self.table.n
        self._announce()
        x = self.table.vectors()
        codes = self.codes if (self.codes >= 0).any() else None
        bandwidths = choose_bandwidths(x, codes, config["t"], config["seed"])
        schemes = [Scheme("natural", np.full(n, 1 / n)), *added]
        pairs = self._pass(x, bandwidths, schemes, k, NEAR_DUPLICATE_COSINE)
        first = first_with_same_vector(x)
        measured = Measured(
            bandwidths,
            natural=pairs.potentials[0],
            knn_distance=_last_distance(x, pairs.ids),
            nearest=_nearest_different(x, pairs.ids, first),
            first=first,
            near_duplicates=pairs.counts if pairs.counts is not None else np.zeros(n, dtype=np.int64),
            hardness=hardness(x, self.codes),
        )
        self._fill(schemes, pairs, bandwidths)
        best = [
            self._best(x, first, entry, self._wants_best(entry["t"], bandwidths.chosen))
            for entry in schemes[0].bandwidths
        ]
        if keep_neighbors:
            self._write_neighbors(pairs)
        return self._write(x, measured, schemes, best, "new", started)

    def extend(self, added: list[Scheme], keep_neighbors: bool, started: float) -> UniformityResult:
        """Add schemes and groups to a finished measurement; without any there is nothing to do."""
        document = read_json(self.run.out / UNIFORMITY)
        if keep_neighbors and not (self.run.out / "neighbors.parquet").exists():
            raise KdbiasError(
                f"{self.run.out} was measured without --keep-neighbors, so its neighbours are gone; measure "
                "again with --keep-neighbors --overwrite"
            )
        known = {entry["name"]: entry for entry in document["schemes"]}
        fresh = [s for s in added if known.get(s.name, {}).get("fingerprint") != s.fingerprint]
        old_groups = list(document["schemes"][0]["groups"])
        new_groups = [name for name in self.groups if name not in old_groups]
        if not fresh and not new_groups:
            progress.say(f"{self.run.out} is finished: nothing to do")
            return UniformityResult(self.run.out, document, "finished")
        measured = read_measured(self.run.out, document, self.ids)
        schemes = read_schemes(self.run.out, document)
        self.groups = {name: self.table.column(name) for name in (*old_groups, *new_groups)}
        if fresh:
            self._announce(f", {len(fresh)} new scheme(s)")
        x = self.table.vectors()
        if fresh:
            pairs = self._pass(x, measured.bandwidths, fresh, 0, None)
            self._fill(fresh, pairs, measured.bandwidths)
            places = {scheme.name: i for i, scheme in enumerate(schemes)}
            for scheme in fresh:
                if scheme.name in places:
                    progress.say(f"{scheme.weights} has changed; scheme {scheme.name!r} is measured anew")
                    schemes[places[scheme.name]] = scheme
                else:
                    schemes.append(scheme)
        return self._write(x, measured, schemes, document["best"], "extended", started)

    def _announce(self, more: str = "") -> None:
        n, d = self.table.n, self.table.d
        seconds = seconds_estimate(n, d, self.threads)
        progress.say(
            f"uniformity: device {self.device}, float32, {self.threads} thread(s), tile {TILE}, "
            f"{n:,} samples x {d} dimensions{more}; all pairs in about {_duration(seconds)}"
        )

    def _pass(
        self, x: np.ndarray, bandwidths: Bandwidths, schemes: list[Scheme], k: int, near: float | None
    ) -> AllPairs:
        n, t = len(x), bandwidths.values
        tile = None
        if self.device == "cpu":
            tile = fitting_tile(n, k, len(schemes), len(t), self.threads, self.budget)
            if tile < TILE:
                progress.say(f"tile {tile} instead of {TILE}, to stay within --memory")
        with progress.bar(n * n / 1e6, "Mpairs", "all pairs") as bar:
            return all_pairs(
                x,
                t,
                np.stack([s.p for s in schemes]),
                k=k,
                near=near,
                device=self.device,
                tile=tile,
                threads=self.threads,
                progress=lambda pairs: bar.update(pairs / 1e6),
            )

    def _fill(self, schemes: list[Scheme], pairs: AllPairs, bandwidths: Bandwidths) -> None:
        chosen = bandwidths.values.index(bandwidths.chosen)
        energies, pair_energies, potentials = pairs.energies, pairs.pair_energies, pairs.potentials
        for m, scheme in enumerate(schemes):
            scheme.log_density = np.log(potentials[m, chosen])
            scheme.bandwidths = [
                bandwidth_entry(self.table.d, t, scheme.p, float(energies[m, i]), float(pair_energies[m, i]))
                for i, t in enumerate(bandwidths.values)
            ]

    def _wants_best(self, t: float, chosen: float) -> bool:
        which = self.run.record["config"]["rectification"]
        if which == "auto":
            which = "all" if self.table.n <= ALL_BANDWIDTHS_UP_TO else "chosen"
        return which == "all" or (which == "chosen" and t == chosen)

    def _best(
        self, x: np.ndarray, first: np.ndarray, natural: dict[str, Any], wanted: bool
    ) -> dict[str, Any]:
        """The least energy that any re-weighting reaches at this bandwidth, with its certificate."""
        t = natural["t"]
        none = {"t": t, "energy": None, "gap": None, "ess_share": None, "effective_distinct": None}
        if not wanted:
            return {**none, "reason": "not searched at this bandwidth; ask with --rectification all"}
        distinct = len(np.unique(first))
        needed = 2 * distinct * (distinct + TILE) // 2
        if needed > self.budget:
            return {
                **none,
                "reason": f"needs {needed / 2**30:,.1f} GiB for the kernel of {distinct:,} distinct samples, "
                f"more than --memory {self.budget / 2**30:,.1f} GiB",
            }
        if natural["uniformity"] is None:
            return {**none, "reason": natural["reason"]}
        progress.say(f"searching the best re-weighting at t={t:g} (for the rectification)")
        found = solve(x, t, duplicates=first, tolerance=5e-3, memory=self.budget, threads=self.threads)
        return {
            "t": t,
            "energy": found.energy,
            "gap": found.gap,
            "ess_share": found.ess,
            "effective_distinct": 1 / found.energy,
            "reason": None if found.proven else "the kernel is approximated, so there is no certificate",
        }

    def _write_neighbors(self, pairs: AllPairs) -> None:
        if pairs.ids is None or pairs.cosines is None:
            raise KdbiasError("a single sample has no neighbours to keep; leave out --keep-neighbors")
        write_neighbors(self.run.out, self.ids, pairs.ids, pairs.cosines, self._provenance({}, 0.0))

    def _write(
        self,
        x: np.ndarray,
        measured: Measured,
        schemes: list[Scheme],
        best: list[dict[str, Any]],
        state: str,
        started: float,
    ) -> UniformityResult:
        config = self.run.record["config"]
        entries = [
            scheme_entry(s, x, self.codes, self.groups, measured.hardness, measured.nearest) for s in schemes
        ]
        rectify(entries, entries[0]["bandwidths"], best)
        counts = measured.counts()
        document = {
            "n": self.table.n,
            "d": self.table.d,
            "t_chosen": measured.bandwidths.chosen,
            "bandwidth_rule": measured.bandwidths.rule,
            "search": {"kind": config["search"], "k": config["k"], "recall": 1.0 if config["k"] else None},
            "duplicates": counts,
            "best": best,
            "schemes": entries,
        }
        seconds = time.perf_counter() - started
        doc = self._provenance({"samples": self.table.n, **counts}, seconds, t_chosen=document["t_chosen"])
        columns = {name: self.table.column(name) for name in self.table.group_columns}
        if state == "new":
            write_measured(self.run.out, self.ids, self.labels, columns, measured, doc)
        write_schemes(self.run.out, self.ids, measured, schemes, doc)
        write_json(self.run.out / UNIFORMITY, document)
        self.run.finish(doc["counts"], seconds, schemes=[s.name for s in schemes])
        return UniformityResult(self.run.out, document, state)

    def _provenance(self, counts: dict[str, Any], seconds: float, **more: Any) -> dict[str, Any]:
        record = self.run.record
        where = str(self.table.path.resolve())
        return provenance.document(
            STAGE, record["config"], record["inputs"], counts, seconds, embeddings=where, **more
        )


def _neighbour_count(k: int | None, n: int) -> int:
    if k is None:
        return min(DEFAULT_K, n - 1)
    if not 1 <= k < n:
        raise KdbiasError(f"--k {k} neighbours of {n:,} samples do not exist; choose 1 <= k <= {n - 1:,}")
    return k


def _require_known(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise KdbiasError(f"{option} {value!r} is unknown; use {', '.join(known)}")


def _read_weights(weights: Sequence[str | os.PathLike[str]], table: EmbeddingTable) -> list[Scheme]:
    """The manifests as schemes in the table's order; each must hold exactly the table's samples."""
    schemes: dict[str, Scheme] = {}
    ids = table.ids() if weights else None
    for path in weights:
        manifest = read_manifest(path)
        rows = align(ids, manifest.ids, f"embedding table {table.path}", f"weights {path}")
        if manifest.n != table.n:
            raise KdbiasError(
                f"weights {path} has {manifest.n:,} samples, embedding table {table.path} has {table.n:,}; "
                "they must hold the same samples"
            )
        name = Path(path).stem
        p = manifest.weights[rows]
        if name == "natural" and p.min() == p.max():
            continue  # it is measured anyway
        if name == "natural" or (name in schemes and schemes[name].fingerprint != manifest.fingerprint):
            raise KdbiasError(f"--weights {path}: another scheme is called {name!r} already; rename the file")
        schemes[name] = Scheme(name, p / p.sum(), str(Path(path)), manifest.fingerprint)
    return list(schemes.values())


def _codes(labels: pa.Array) -> np.ndarray:
    """(n,) int64 code of each label, -1 for null."""
    encoded = labels.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _last_distance(x: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """(n,) distance to the k-th neighbour; NaN without neighbours."""
    return np.full(len(x), np.nan) if ids is None else pair_distances(x, ids[:, -1])


def _nearest_different(x: np.ndarray, ids: np.ndarray | None, first: np.ndarray) -> np.ndarray:
    """(n,) distance to the nearest neighbour with another vector; NaN where all k have the same one."""
    result = np.full(len(x), np.nan)
    if ids is None:
        return result
    different = first[ids] != first[:, None]
    rows = np.flatnonzero(different.any(axis=1))
    nearest = np.arange(len(x))
    nearest[rows] = ids[rows, different[rows].argmax(axis=1)]
    result[rows] = pair_distances(x, nearest)[rows]
    return result


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
