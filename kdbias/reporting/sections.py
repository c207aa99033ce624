"""The sections of the page: which tables, figures and pictures the collected outputs give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from kdbias.display.figure import Figure
from kdbias.measurement.target_summary import target_tables
from kdbias.reporting import figures, tables, thumbnails
from kdbias.reporting.density_sections import density_sections
from kdbias.reporting.layout import Page, Section
from kdbias.reporting.outputs import NATURAL, Density, Outputs
from kdbias.tables.provenance import inputs_in, options_in
from kdbias.weighting.frontier_figure import optimum, series

_LINES = 8  # metrics of training drawn at most
_IN_FULL = 3  # evaluations of students that are shown one by one; of more, only what a scheme reaches
_X_AXES = ("epoch", "step", "steps")
# Columns of metrics.csv that say how a run went along, not what it learnt.
_BOOKKEEPING = {*_X_AXES, "lr", "images_per_second", "data_wait", "ess_fraction", "unreadable", "seconds"}


def all_sections(page: Page) -> list[Section]:
    """All that have something to show, in order; what could not be shown is added to the notices."""
    listed, later = [], [_uniformity(page)]
    for i, density in enumerate(page.found.densities):
        *first, figures = density_sections(page, density, f"d{i}" if i else "d")
        listed += first
        later.append(figures)
    listed += [*later, _frontiers(page), _students(page), *_studies(page)]
    listed.append(Section("provenance", "What was read", provenances=tables.provenances(page.found)))
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
    aimed = any(density.numbers["target"] for density in page.found.densities)
    section = Section("uniformity", "Target and uniformity" if aimed else "Uniformity")
    for i, density in enumerate(page.found.densities):
        if density.numbers["target"]:
            section.add(*target_tables(density.numbers))
            section.add(figures.nearness_against_ess(f"ess{i}", density, page.look))
            section.folded.append(tables.uniformity_table(density))
            continue
        rows, optima = tables.uniformity_rows(density), _optima(page.found, density)
        section.add(
            tables.uniformity_table(density),
            figures.uniformity_against_ess(f"ess{i}", rows, page.look, optima),
            figures.distinct_across_bandwidths(f"distinct{i}", rows, page.look),
        )
    section.add(tables.manifests_table(tables.unmeasured(page.found)))
    return section


def _optima(found: Outputs, density: Density) -> dict[float, list[tuple[float, float]]]:
    """t -> (ESS/n, uniformity) of the equilibria, where a frontier of this density was collected."""
    own = density.table.fingerprint
    frontiers = [f for f in found.frontiers if inputs_in(f.record).get("density") == own]
    return {f.t: optimum(f.rows, "uniformity") for f in frontiers if isinstance(f.t, float)}


def _frontiers(page: Page) -> Section:
    """The frontiers with their figures."""
    section = Section("frontier", "Frontier of the weight schemes")
    for i, frontier in enumerate(page.found.frontiers):
        figure = figures.frontier_figure(f"frontier{i}", frontier, page.look)
        section.add(tables.frontier_table(frontier), figure)
    return section


def _studies(page: Page) -> Iterator[Section]:
    """Each study's differences to natural sampling and its plots."""
    for i, study in enumerate(page.found.studies):
        from kdbias.reporting.study_section import study_figures, study_notices, study_tables

        page.notices.extend(study_notices(study))
        section = Section(f"study{i}", f"Study: {study.document['name']}", tables=study_tables(study))
        section.add(*study_figures(study, f"study{i}"))
        yield section


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
        loss = options_in(run.record).get("loss")
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
