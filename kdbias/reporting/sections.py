"""The sections of the page: which tables, figures and pictures the collected outputs give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdbias.display.figure import Figure, Look
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.measurement.target_summary import target_tables
from kdbias.reporting import figures, maps, sample_figures, tables, thumbnails
from kdbias.reporting.outputs import NATURAL, Density, Outputs, input_of
from kdbias.reporting.tables import Provenance
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align
from kdbias.weighting.frontier_figure import optimum, series

_GROUP_COLUMNS = 6  # drawn at most, beside the label
_GROUP_VALUES = 200  # a column with more values is no group
_LINES = 8  # metrics of training drawn at most
_IN_FULL = 3  # evaluations of students that are shown one by one; of more, only what a scheme reaches
_X_AXES = ("epoch", "step", "steps")
# Columns of metrics.csv that say how a run went along, not what it learnt.
_BOOKKEEPING = {*_X_AXES, "lr", "images_per_second", "data_wait", "ess_fraction", "unreadable", "seconds"}


@dataclass
class Section:
    """A part of the page: tables, then figures, images and pictures of samples. `add` leaves None out."""

    id: str
    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    images: list[thumbnails.Image] = field(default_factory=list)
    strips: list[thumbnails.Strip] = field(default_factory=list)
    provenances: list[Provenance] = field(default_factory=list)

    def add(self, *parts: Table | Figure | None) -> None:
        """Append what there is."""
        self.tables += [part for part in parts if isinstance(part, Table)]
        self.figures += [part for part in parts if isinstance(part, Figure)]

    @property
    def alone(self) -> str | None:
        """The one-panel figure that would stand alone in its row of two; it gets the row's whole width."""
        waiting = None
        for figure in self.figures:
            if len(figure.panels) == 1:
                waiting = None if waiting else figure.name
        return waiting

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.tables or self.figures or self.images or self.strips or self.provenances)


@dataclass(frozen=True)
class Page:
    """What a page is about, and what it may show.

    Attributes:
        found: the outputs.
        look: of each scheme, the same in all figures.
        pictures: thumbnails a strip.
        roots: folders that pictures may come from.
        notices: lines at the page's head, to which sections add what they could not show.
    """

    found: Outputs
    look: Mapping[str, Look]
    pictures: int
    roots: Sequence[Path]
    notices: list[str]

    def sections(self) -> list[Section]:
        """All that have something to show, in order."""
        listed = [_uniformity(self)]
        for i, density in enumerate(self.found.densities):
            listed += _density(self, density, f"d{i}" if i else "d")
        listed += [_frontiers(self), _students(self), *_studies(self)]
        listed.append(Section("provenance", "What was read", provenances=tables.provenances(self.found)))
        return [section for section in listed if not section.empty]


def scheme_names(found: Outputs) -> list[str]:
    """Everything that has a look, natural first."""
    names = [NATURAL]
    names += [s["name"] for d in found.densities for s in d.numbers["schemes"]]
    names += [m.name for m in found.manifests]
    names += [name for frontier in found.frontiers for name in series(frontier.rows)]
    return list(dict.fromkeys([*names, *(run.scheme for run in found.runs)]))


def _uniformity(page: Page) -> Section:
    """What was measured of each density folder."""
    section = Section("uniformity", "Uniformity")
    for i, density in enumerate(page.found.densities):
        rows, optima = tables.uniformity_rows(density), _optima(page.found, density)
        section.add(
            *target_tables(density.numbers),
            tables.uniformity_table(density),
            figures.uniformity_against_ess(f"ess{i}", rows, page.look, optima),
            figures.distinct_across_bandwidths(f"distinct{i}", rows, page.look),
        )
    section.add(tables.manifests_table(tables.unmeasured(page.found)))
    return section


def _optima(found: Outputs, density: Density) -> dict[float, list[tuple[float, float]]]:
    """t -> (ESS/n, uniformity) of the equilibria, where a frontier of this density was collected."""
    own = density.table.fingerprint
    frontiers = [f for f in found.frontiers if input_of(f.record, "density") == own]
    return {f.t: optimum(f.rows, "uniformity") for f in frontiers if isinstance(f.t, float)}


def _frontiers(page: Page) -> Section:
    """The frontiers with their figures."""
    section = Section("frontier", "Frontier of the weight schemes")
    for i, frontier in enumerate(page.found.frontiers):
        figure = figures.frontier_figure(f"frontier{i}", frontier, page.look)
        section.add(tables.frontier_table(frontier), figure)
    return section


def _density(page: Page, density: Density, name: str) -> list[Section]:
    """Density, weights, groups, map and thumbnails of one density table."""
    many = f" of {density.path.name}" if len(page.found.densities) > 1 else ""
    log_density, look = density.table.numbers("log_density"), page.look
    weights = _aligned_weights(page, density)
    drawn = {s: w for s, w in weights.items() if s != NATURAL}
    section = Section(f"{name}-weights", f"Density and weights{many}")
    section.add(
        sample_figures.density_histogram(f"{name}-density", log_density, drawn, look, density.bandwidth)
    )
    histogram = sample_figures.weight_histogram(f"{name}-weight", weights, look)
    if histogram is not None:
        section.add(histogram, sample_figures.lorenz_curve(f"{name}-lorenz", weights, look))
    section.add(*_group_figures(density, weights, look, name))
    embeddings = _embeddings_of(page.found, density)
    if embeddings is not None and embeddings.d > 1:
        places, variance = maps.flat(embeddings.batches, embeddings.d)
        rows = align(density.table.ids, embeddings.ids(), str(density.path), str(embeddings.path))
        section.add(
            maps.embedding_maps(
                f"{name}-map",
                places[rows],
                variance,
                log_density,
                weights,
                density.bandwidth,
                density.table.witness,
            )
        )
    samples = Section(f"{name}-samples", f"Samples{many}")
    if page.pictures:
        samples.strips = _strips(page, embeddings, density, log_density, weights)
    return [section, samples]


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
    for i, column in enumerate(["label", *density.table.group_columns]):
        values = density.table.table.column(column).to_pylist()
        distinct = {str(v) for v in values if v is not None}
        if 2 <= len(distinct) <= _GROUP_VALUES and weights and len(drawn) <= _GROUP_COLUMNS:
            wanted = ((density.numbers["target"] or {}).get("columns") or {}).get(column)
            target = wanted and {row["value"]: row["share_reference"] for row in wanted}
            shares = sample_figures.group_shares(column, values, weights, target)
            drawn.append(sample_figures.group_figure(f"{name}-group{i}", shares, look))
    return drawn


def _embeddings_of(found: Outputs, density: Density) -> EmbeddingTable | None:
    """The embedding table that the densities were computed from, where it is among the inputs."""
    documents = (density.record, density.table.provenance)
    inputs = {value for document in documents for value in (document.get("inputs") or {}).values()}
    return next((e for e in found.embeddings if e.fingerprint in inputs), None)


def _strips(
    page: Page,
    embeddings: EmbeddingTable | None,
    density: Density,
    log_density: np.ndarray,
    weights: Mapping[str, np.ndarray],
) -> list[thumbnails.Strip]:
    """Strips of images from isolated to crowded, where their source can be read."""
    table = density.table
    try:
        if embeddings is None:
            raise KdbiasError("its embedding table is not here")
        source = thumbnails.open_source(embeddings.provenance, embeddings.path, page.roots)
        duplicate = table.table.column("duplicate_of").is_valid().to_numpy()
        return thumbnails.strips(
            source, table.ids, table.labels, log_density, weights, duplicate, page.pictures
        )
    except KdbiasError as error:
        page.notices.append(f"no pictures for {density.path}: {error}")
        return []


def _studies(page: Page) -> Iterator[Section]:
    """Each study's differences to natural sampling and its plots."""
    for i, study in enumerate(page.found.studies):
        from kdbias.reporting.study_section import study_figures, study_notices, study_tables

        page.notices.extend(study_notices(study))
        named = f"Study: {study.document['name']}"
        yield Section(f"study{i}", named, study_tables(study), study_figures(study, f"study{i}"))


def _students(page: Page) -> Section:
    """What the students reached, by group too, and how their runs went."""
    found, order = page.found, list(page.look)
    section = Section("students", "Training and students" if found.runs else "Evaluations")
    alike = found.judged_alike
    values = tables.values_by_scheme(alike, order)
    table = tables.students_table(values)
    if table is not None:
        measures = tables.shown_measures(values)
        section.add(table, figures.results_by_scheme("results", values, measures, page.look))
    alone = [e for e in found.evaluations if e not in alike or table is None]
    judged = [e for e in found.evaluations if e not in alone]
    section.add(tables.evaluations_table(alone))
    for evaluation in found.evaluations if len(judged) <= _IN_FULL else alone:
        section.add(*tables.group_tables(evaluation))
        section.images += thumbnails.plots(evaluation)
    if len(judged) > _IN_FULL:
        section.add(*tables.students_by_group(judged, order))
    section.add(_training(page))
    return section


def _training(page: Page) -> Figure | None:
    """Curves of all training runs; None without any."""
    order = list(page.look)
    curves: dict[str, list[figures.Curve]] = {}
    x_name = _X_AXES[0]
    for run in sorted(page.found.runs, key=lambda r: order.index(r.scheme)):
        x_name = next((name for name in _X_AXES if name in run.metrics), "row")
        loss = (run.record.get("config") or {}).get("loss")
        for quantity, curve in _curves(run.metrics, run.scheme, x_name):
            named = f"{quantity} ({loss})" if loss and "loss" in quantity else quantity
            curves.setdefault(named.replace("_", " "), []).append(curve)
    return figures.training_curves("training", dict(list(curves.items())[:_LINES]), x_name, page.look)


def _curves(
    metrics: Mapping[str, Sequence[object]], scheme: str, x_name: str
) -> Iterator[tuple[str, figures.Curve]]:
    """The columns of metrics.csv that are results, each over epoch, step or row."""
    for name, column in metrics.items():
        x = metrics.get(x_name, range(len(column)))
        pairs = [pair for pair in zip(x, column, strict=True) if all(map(_is_number, pair))]
        if pairs and name not in _BOOKKEEPING:
            array = np.array(pairs, dtype=float)
            yield name, figures.Curve(scheme, array[:, 0], array[:, 1])


def _is_number(value: object) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and bool(np.isfinite(value))
