"""The sections of the page: which tables, figures and pictures the collected outputs give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdbias.display.figure import Figure, Look
from kdbias.errors import KdbiasError
from kdbias.reporting import distributions, manifests, maps, thumbnails, uniformity_figures
from kdbias.reporting.collect import NATURAL, Collection, Density
from kdbias.reporting.evaluations import Image
from kdbias.reporting.frontier import frontier_figure, frontier_table
from kdbias.reporting.summaries import (
    Provenance,
    best_of,
    distilled_means,
    points,
    shown_measures,
    spread,
    uniformity_table,
    values_by_scheme,
)
from kdbias.reporting.tables import Table, magnitude
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align

_GROUP_COLUMNS = 6  # drawn at most, beside the label
_GROUP_VALUES = 200  # a column with more values is no group


@dataclass
class Section:
    """A part of the page: tables, then figures, images and pictures of samples."""

    id: str
    title: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    strips: list[thumbnails.Strip] = field(default_factory=list)
    provenances: list[Provenance] = field(default_factory=list)

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
        drawn = self.figures or self.images or self.strips
        return not (self.tables or drawn or self.provenances)


@dataclass(frozen=True)
class Fact:
    """A number to see first, and what it means."""

    value: str
    meaning: str


def scheme_names(found: Collection) -> list[str]:
    names = [NATURAL]
    names += [s["name"] for d in found.densities for s in d.numbers.get("schemes", [])]
    names += [s.name for s in found.schemes]
    names += [name for frontier in found.frontiers for name in frontier.names]
    names += [run.scheme for run in found.runs]
    return list(dict.fromkeys(names))


def uniformity_section(found: Collection, look: Mapping[str, Look]) -> Section:
    section = Section("uniformity", "Uniformity")
    for i, density in enumerate(found.densities):
        section.tables.append(uniformity_table(density))
        dots = points(density)
        for figure in (
            uniformity_figures.uniformity_against_ess(f"ess{i}", dots, look, _optima(found, density)),
            uniformity_figures.distinct_across_bandwidths(f"distinct{i}", dots, look),
        ):
            if figure is not None:
                section.figures.append(figure)
    table = manifests.manifests_table(manifests.unmeasured(found))
    if table is not None:
        section.tables.append(table)
    return section


def _optima(found: Collection, density: Density) -> dict[float, list[tuple[float, float]]]:
    """t -> (ESS/n, uniformity) of the equilibria, where a frontier of this density was collected."""
    own = density.table.fingerprint
    frontiers = [f for f in found.frontiers if (f.record.get("inputs") or {}).get("density") == own]
    return {f.t: f.optimum("uniformity") for f in frontiers}


def frontier_section(found: Collection, look: Mapping[str, Look]) -> Section:
    section = Section("frontier", "Frontier of the weight schemes")
    for i, frontier in enumerate(found.frontiers):
        section.tables.append(frontier_table(frontier))
        figure = frontier_figure(f"frontier{i}", frontier, look)
        if figure is not None:
            section.figures.append(figure)
    return section


def density_sections(
    found: Collection,
    density: Density,
    look: Mapping[str, Look],
    name: str,
    pictures: int,
    roots: Sequence[Path],
    notices: list[str],
) -> list[Section]:
    """Density, weights, groups, map and thumbnails of one density table."""
    many = f" of {density.path.name}" if len(found.densities) > 1 else ""
    log_density = density.table.numbers("log_density")
    weights = _aligned_weights(found, density, notices)
    section = Section(f"{name}-weights", f"Density and weights{many}")
    section.figures.append(
        distributions.density_histogram(
            f"{name}-density",
            log_density,
            {s: w for s, w in weights.items() if s != NATURAL},
            look,
            density.bandwidth,
        )
    )
    histogram = distributions.weight_histogram(f"{name}-weight", weights, look)
    if histogram is not None:
        section.figures += [histogram, distributions.lorenz_curve(f"{name}-lorenz", weights, look)]
    section.figures += _group_figures(density, weights, look, name)
    embeddings = _embeddings_of(found, density)
    if embeddings is not None:
        figure = _map(embeddings, density, log_density, weights, name)
        if figure is not None:
            section.figures.append(figure)
    samples = Section(f"{name}-samples", f"Samples{many}")
    if pictures:
        samples.strips = _strips(embeddings, density, log_density, weights, pictures, roots, notices)
    return [section, samples]


def _aligned_weights(found: Collection, density: Density, notices: list[str]) -> dict[str, np.ndarray]:
    """Scheme -> weights in the order of the density table; manifests over other data are left out."""
    aligned: dict[str, np.ndarray] = {}
    for scheme in found.schemes:
        rows = align(density.table.ids, scheme.manifest.ids, "", "", allow_missing=True)
        if (rows < 0).any() or scheme.manifest.n != density.table.n:
            if len(found.densities) == 1:
                notices.append(
                    f"{scheme.path}: not over the samples of {density.path}, not shown with its density"
                )
            continue
        aligned[scheme.name] = scheme.manifest.weights[rows]
    return aligned


def _group_figures(
    density: Density, weights: Mapping[str, np.ndarray], look: Mapping[str, Look], name: str
) -> list[Figure]:
    columns = ["label", *density.table.group_columns]
    figures: list[Figure] = []
    for i, column in enumerate(columns):
        values = density.table.table.column(column).to_pylist()
        distinct = {str(v) for v in values if v is not None}
        if not 2 <= len(distinct) <= _GROUP_VALUES or not weights or len(figures) > _GROUP_COLUMNS:
            continue
        shares = distributions.group_shares(column, values, weights)
        figures.append(distributions.group_figure(f"{name}-group{i}", shares, look))
    return figures


def _embeddings_of(found: Collection, density: Density) -> EmbeddingTable | None:
    inputs = set((density.record.get("inputs") or {}).values()) | set(
        (density.table.provenance.get("inputs") or {}).values()
    )
    return next((e for e in found.embeddings if e.fingerprint in inputs), None)


def _map(
    embeddings: EmbeddingTable,
    density: Density,
    log_density: np.ndarray,
    weights: Mapping[str, np.ndarray],
    name: str,
) -> Figure | None:
    if embeddings.d < 2:
        return None
    mean, directions, variance = maps.principal_directions(embeddings.batches, embeddings.d)
    places = np.concatenate([(x - mean) @ directions for _, x in embeddings.batches()])
    rows = align(density.table.ids, embeddings.ids(), str(density.path), str(embeddings.path))
    return maps.embedding_maps(f"{name}-map", places[rows], variance, log_density, weights, density.bandwidth)


def _strips(
    embeddings: EmbeddingTable | None,
    density: Density,
    log_density: np.ndarray,
    weights: Mapping[str, np.ndarray],
    count: int,
    roots: Sequence[Path],
    notices: list[str],
) -> list[thumbnails.Strip]:
    if embeddings is None:
        notices.append(f"no pictures for {density.path}: its embedding table is not here")
        return []
    try:
        source = thumbnails.open_source(embeddings.provenance, embeddings.path, roots)
        duplicate = density.table.table.column("duplicate_of").is_valid().to_numpy()
        table = density.table
        return thumbnails.strips(source, table.ids, table.labels, log_density, weights, duplicate, count)
    except KdbiasError as error:
        notices.append(f"no pictures for {density.path}: {error}")
        return []


def headline(found: Collection) -> list[Fact]:
    """What to see first; every number is read from the collected files."""
    facts: list[Fact] = []
    for density in found.densities[:1]:
        facts.append(Fact(f"{density.table.n:,}", "samples measured"))
        by_scheme = {p.scheme: p for p in points(density) if f"{p.t:g}" == density.bandwidth}
        natural = by_scheme.get(NATURAL)
        if natural is not None and natural.effective_distinct is not None:
            t = f"t = {natural.t:g}"
            ceiling = magnitude(natural.ceiling).text
            facts.append(
                Fact(
                    f"{natural.effective_distinct:,.1f}",
                    f"distinct samples they are worth as drawn naturally ({t}; ceiling {ceiling})",
                )
            )
            reached = [
                (p.effective_distinct, p.scheme, p.ess)
                for p in by_scheme.values()
                if p.scheme != NATURAL and p.effective_distinct is not None
            ] or manifests.reached(found, density)
            if reached:
                best, scheme, ess = max(reached)
                worth = f"distinct samples under “{scheme}” ({t}; ESS {100 * ess:.0f} %)"
                facts.append(Fact(f"{best:,.1f}", worth))
    values = values_by_scheme(found.judged_alike)
    for measure in shown_measures(values)[:1] if values else []:
        reached_by = values[measure.key]
        means = distilled_means(reached_by)
        if NATURAL in means and len(means) > 1:
            best_name = best_of({s: mean for s, mean in means.items() if s != NATURAL}, measure)[0]
            ends = [reached_by[NATURAL], reached_by[best_name]]
            change = " → ".join(spread(end, measure).text.replace(" ", "\u00a0") for end in ends)
            over = "mean ± standard deviation over seeds" if max(map(len, ends)) > 1 else "one seed each"
            none = "; no other sampling beats natural" if NATURAL in best_of(means, measure) else ""
            facts.append(Fact(change, f"{measure.label}: natural → “{best_name}”, {over}{none}"))
    return facts
