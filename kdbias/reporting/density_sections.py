"""The sections of one density table: who is drawn, the map, telling samples, copies, figures of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kdbias.data.source import Source
from kdbias.display.figure import Figure, Look
from kdbias.errors import KdbiasError
from kdbias.reporting import sample_figures, thumbnails
from kdbias.reporting.copies import Copies, copies, copies_table, flagged
from kdbias.reporting.explorer import Explorer, explorer, shown_rows
from kdbias.reporting.group_tables import best_scheme, group_table, telling_columns
from kdbias.reporting.layout import Page, Section
from kdbias.reporting.outputs import NATURAL, Density, Outputs
from kdbias.reporting.sheets import sheets
from kdbias.reporting.spread import spread, tried
from kdbias.reporting.suspects import suspects_shown, suspects_table
from kdbias.reporting.vectors import Vectors
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align
from kdbias.tables.provenance import inputs_in
from kdbias.wording import counted

_GROUP_COLUMNS = 6  # drawn at most, beside the label
_COPIES_SHOWN = 6  # groups of near-duplicates with pictures


@dataclass(frozen=True)
class _Pictures:
    """Where the pictures of a density's samples come from: the row of each, -1 for none."""

    source: Source
    rows: np.ndarray


def density_sections(page: Page, density: Density, name: str) -> list[Section]:
    """Who is drawn, map, samples, and figures of density and weights; empty ones among them."""
    many = f" of {density.path.name}" if len(page.found.densities) > 1 else ""
    weights = _aligned_weights(page, density)
    groups = Section(f"{name}-groups", f"Groups{many}")
    best = best_scheme(density, weights)
    shown = {} if best is None else {best: weights[best]}
    own = [group_table(density, column, shown) for column in telling_columns(density)]
    groups.tables, groups.folded = own[:1], own[1 : _GROUP_COLUMNS + 1]

    explored, samples = Section(f"{name}-map", f"Map{many}"), Section(f"{name}-samples", f"Samples{many}")
    embeddings = embeddings_of(page.found, density)
    pictures = _pictures(page, density, embeddings) if page.settings.pictures else None
    if embeddings is not None:
        _look_closely(page, density, embeddings, weights, pictures, explored, samples)

    figures = Section(f"{name}-weights", f"Density and weights{many}")
    drawn = {s: w for s, w in weights.items() if s != NATURAL}
    log_density, look = density.table.numbers("log_density"), page.look
    figures.add(
        sample_figures.density_histogram(
            f"{name}-density", log_density, drawn, look, density.bandwidth, bool(density.numbers["target"])
        )
    )
    histogram = sample_figures.weight_histogram(f"{name}-weight", weights, look)
    if histogram is not None:
        figures.add(histogram, sample_figures.lorenz_curve(f"{name}-lorenz", weights, look))
    figures.add(*_group_figures(density, weights, look, name))
    return [groups, explored, samples, figures]


def _look_closely(
    page: Page,
    density: Density,
    embeddings: EmbeddingTable,
    weights: Mapping[str, np.ndarray],
    pictures: _Pictures | None,
    explored: Section,
    samples: Section,
) -> None:
    """Fill map and samples from the embeddings of those samples that either shows."""
    count, table = page.settings.pictures, density.table
    rows = shown_rows(density, page.settings.dots) if page.settings.dots and embeddings.d > 1 else None
    alike, alike_count = flagged(density)
    unique = ~table.table.column("duplicate_of").is_valid().to_numpy()
    telling: list[thumbnails.Shown] = []
    if pictures is not None:
        usable = np.flatnonzero(unique & (pictures.rows >= 0))
        telling = thumbnails.telling(table.numbers("log_density"), weights, usable, tried(count, len(usable)))
    wanted = [alike, *(strip.rows for strip in telling), *([] if rows is None else [rows])]
    vectors = Vectors.read(density, embeddings, wanted)
    if rows is not None:
        explored.explorers = [_explorer(page, density, rows, vectors, weights, pictures, explored.id)]
    if pictures is not None:
        reach = table.numbers("knn_distance")
        for shown in telling:
            labels = table.labels.take(pa.array(shown.rows)).to_pylist()
            order = spread(count, labels, vectors.of(shown.rows), reach[shown.rows])
            strip = thumbnails.strip(pictures.source, shown, order, pictures.rows, density, count)
            samples.strips.append(strip)
    found = copies(alike, vectors.of(alike), alike_count)
    samples.add(suspects_table(density, weights), copies_table(found, density))
    if pictures is not None:
        odd = [*suspects_shown(density, weights), *_of_copies(found, density, weights, count)]
        samples.strips += _strips(odd, density, pictures, count)


def _explorer(
    page: Page,
    density: Density,
    rows: np.ndarray,
    vectors: Vectors,
    weights: Mapping[str, np.ndarray],
    pictures: _Pictures | None,
    name: str,
) -> Explorer:
    most = page.settings.map_pictures
    tiles = sheets(pictures.source, pictures.rows[rows], most) if pictures is not None and most else None
    return explorer(
        f"{name}-explorer", density, rows, vectors.of(rows), weights, page.settings.projection, tiles
    )


def _of_copies(
    found: Copies, density: Density, weights: Mapping[str, np.ndarray], count: int
) -> list[thumbnails.Shown]:
    """The largest groups of near-duplicates."""
    best, shown = best_scheme(density, weights), []
    for number, group in enumerate(found.groups[:_COPIES_SHOWN], 1):
        of = f"the first {count} of " if len(group) > count else ""
        meaning = f"{of}{counted(len(group), 'sample')} that are all but the same to the teacher"
        values = None if best is None else weights[best]
        shown.append(thumbnails.Shown(f"Near-duplicates, group {number}", meaning, group, values))
    return shown


def _strips(
    shown: Sequence[thumbnails.Shown], density: Density, pictures: _Pictures, count: int
) -> list[thumbnails.Strip]:
    """Strips of the first pictures of each; none where none has one."""
    strips = []
    for one in shown:
        able = [place for place, row in enumerate(one.rows) if pictures.rows[row] >= 0]
        strips.append(thumbnails.strip(pictures.source, one, able, pictures.rows, density, count))
    return [strip for strip in strips if strip.pictures]


def _aligned_weights(page: Page, density: Density) -> dict[str, np.ndarray]:
    """Scheme -> weights in the order of the density table; manifests over other data are left out."""
    aligned: dict[str, np.ndarray] = {}
    for manifest in page.found.manifests:
        rows = align(density.table.ids, manifest.file.ids, "", "", allow_missing=True)
        if not (rows < 0).any() and manifest.file.n == density.table.n:
            aligned[manifest.name] = manifest.file.weights[rows]
        elif len(page.found.densities) == 1:
            page.notices.append(
                f"{manifest.path}: not over the samples of {density.path}, not shown with its density"
            )
    return aligned


def _group_figures(
    density: Density, weights: Mapping[str, np.ndarray], look: Mapping[str, Look], name: str
) -> list[Figure]:
    """Figures of how the weights share out the groups."""
    drawn: list[Figure] = []
    for i, column in enumerate(telling_columns(density)[: _GROUP_COLUMNS + 1] if weights else []):
        values = density.table.table.column(column).to_pylist()
        wanted = ((density.numbers["target"] or {}).get("columns") or {}).get(column)
        target = wanted and {row["value"]: row["share_reference"] for row in wanted}
        shares = sample_figures.group_shares(column, values, weights, target)
        drawn.append(sample_figures.group_figure(f"{name}-group{i}", shares, look))
    return drawn


def embeddings_of(found: Outputs, density: Density) -> EmbeddingTable | None:
    """The embedding table that the densities were computed from, where it is among the inputs."""
    documents = (density.record, density.table.provenance)
    inputs = {value for document in documents for value in inputs_in(document).values()}
    return next((e for e in found.embeddings if e.fingerprint in inputs), None)


def _pictures(page: Page, density: Density, embeddings: EmbeddingTable | None) -> _Pictures | None:
    """Where pictures come from; None, said among the notices, where their source cannot be read."""
    try:
        if embeddings is None:
            raise KdbiasError("its embedding table is not here")
        source = thumbnails.open_source(embeddings.provenance, embeddings.path, page.roots)
        rows = align(density.table.ids, source.ids, "the density table", "its data", allow_missing=True)
        if not (rows >= 0).any():
            raise KdbiasError("the data holds none of the density table's ids")
        return _Pictures(source, rows)
    except KdbiasError as error:
        page.notices.append(f"no pictures for {density.path}: {error}")
        return None
