"""A frontier is a section of the page, and the line in the trade-off of its density."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.display.figure import SERIES, looks
from kdbias.reporting import report
from kdbias.reporting.figures import frontier_figure
from kdbias.reporting.gathering import collect
from kdbias.reporting.sections import scheme_names
from kdbias.tables.density_table import read_density
from kdbias.tables.run_record import Run
from kdbias.weighting.frontier_figure import optimum
from tests.stages import FRONTIER

_NUMBERS = {"rectification_reason": None, "zero_weights": 3, "max_weight": 4.5, "effective_identities": 2.5}


def row(scheme, method, ess, uniformity, distinct, rectification):
    return {
        **{"scheme": scheme, "method": method, "t": 4.0, "ess_share": ess, "uniformity": uniformity},
        **{"effective_distinct": distinct, "rectification": rectification, **_NUMBERS},
    }


@pytest.fixture(params=[4.0])
def frontier(outputs, tmp_path, request):
    """A frontier of the fixture's density: two equilibria and two other schemes."""
    density = read_density(outputs["density"]).fingerprint
    run = Run.open(tmp_path / "front", FRONTIER, {"t": request.param}, {"density": density})
    rows = [
        row("natural", "natural", 1.0, -1.0, 11.25, 0.0),
        row("equilibrium, ESS >= 80.0%", "equilibrium", 0.8, -1.5, 22.5, 0.5),
        row("hard", "hard", 0.7, None, None, None),
        row("knn-distance", "knn-distance", 0.6, None, None, -216.981),
        row("equilibrium, no floor", "equilibrium", 0.4, -2.0, 33.75, 1.0),
    ]
    pq.write_table(pa.Table.from_pylist(rows), run.out / "frontier.parquet")
    run.finish({"schemes": 5}, 0.1, skipped={"class-balanced": "no labels"})
    return run.out


def test_the_page_of_a_frontier_shows_its_table_and_figure(frontier, tmp_path):
    assert report(frontier, tmp_path / "r.html").inputs == 1
    html = (tmp_path / "r.html").read_text()
    for shown in ("Schemes of front", "equilibrium, ESS &gt;= 80.0%", "22.5", "33.8", "80.0 %", "n/a"):
        assert shown in html
    assert "class-balanced (no labels)" in html
    assert html.count("equilibrium (frontier of D)</text>") == 3


def test_the_equilibria_are_one_line_and_the_others_dots(frontier):
    found = collect([frontier])
    assert optimum(found.frontiers[0].rows, "uniformity") == [(0.4, -2.0), (0.8, -1.5)]
    figure = frontier_figure("f", found.frontiers[0], looks(scheme_names(found)))
    assert figure is not None
    assert len(figure.panels) == 3
    assert "In uniformity a scheme may beat it" in figure.caption
    assert "-21,698" in figure.panels[2]  # too far below natural to be drawn to scale
    ticks = re.findall(r">(\u2212?\d+)</text>", figure.panels[2])
    assert "\u2212100" in ticks
    assert "\u221220000" not in ticks


def test_a_frontier_of_the_shown_density_is_drawn_into_its_trade_off(outputs, frontier, tmp_path):
    report([outputs["density"], frontier], tmp_path / "r.html", pictures=0)
    trade_off = (tmp_path / "r.html").read_text().partition('<figure id="ess0"')[2].partition("</figure>")[0]
    assert trade_off.count("equilibrium frontier</text>") == 1  # at its own bandwidth alone


def test_a_scheme_has_one_colour_on_the_whole_page(outputs, frontier, tmp_path):
    report([outputs["density"], frontier], tmp_path / "r.html", pictures=0)
    html = (tmp_path / "r.html").read_text()
    look = looks(scheme_names(collect([outputs["density"], frontier])))["equilibrium"]
    for figure, width in (("ess0", 1.4), ("distinct0", 1.7), ("frontier0", 1.7), ("d-lorenz", 1.7)):
        drawn = html.partition(f'<figure id="{figure}"')[2].partition("</figure>")[0]
        assert f'stroke="var(--s{SERIES.index(look.color)})" stroke-width="{width}"' in drawn, figure


@pytest.mark.parametrize("frontier", [[2.0, 4.0]], indirect=True)
def test_a_mean_kernel_is_named_and_has_no_place_in_a_trade_off_at_one_bandwidth(outputs, frontier, tmp_path):
    report([outputs["density"], frontier], tmp_path / "r.html", pictures=0)
    html = (tmp_path / "r.html").read_text()
    assert "Frontier at t = 2,4" in html
    assert "equilibrium frontier</text>" not in html
