"""What a study's plots show, read back from the artists that they draw."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from kdbias.display.figure import DARK, LIGHT, figure_file
from kdbias.studies import figures
from kdbias.studies.comparisons import Budget, CaseRows
from kdbias.studies.results import Row

METRIC = "knn.centroid_balanced_accuracy"
GROUPS = [f"fidelity.distance[race={race}]" for race in "AB"]


@pytest.fixture
def axes():
    return Figure().add_subplot()


def case(values, scratch=(), steps=10, metrics=(METRIC,)):
    """Arm -> a list, with a value for each seed, or for each metric of one seed."""
    rows = []
    for arm, own in values.items():
        seeds = [[v] for v in own] if len(metrics) == 1 else [own]
        for seed, found in enumerate(seeds):
            named = dict(zip(metrics, found, strict=True))
            lower = {name: "distance" in name for name in metrics}
            facts = {"steps": steps}
            rows.append(Row("screen", "d", "b", arm, seed, arm in scratch, facts, named, lower))
    return CaseRows("screen", "d/b", tuple(rows), metrics[:1], tuple(values))


def test_an_arm_beyond_the_picture_is_written_out_in_its_row(axes):
    figures._gains(
        axes, case({"natural": [0.8], "even": [0.81], "scratch": [0.4]}, scratch=("scratch",)), LIGHT
    )
    assert [text.get_text() for text in axes.get_yticklabels()] == ["scratch", "even"]
    (mark,) = axes.texts
    assert mark.get_text() == "← -200"
    assert mark.xy[1] == 0
    assert axes.get_xlabel() == "balanced accuracy, nearest centroid:\nerror removed (%)"


def test_numbers_stand_out_from_the_colour_of_their_group(axes):
    figures._by_group(axes, case({"natural": [1.0, 1.0], "even": [1.1, 1.01]}, metrics=GROUPS), LIGHT)
    (image,) = axes.images
    ground = image.cmap(image.norm(image.get_array()))[:, 0, :3]
    assert [text.get_text() for text in axes.texts] == ["+10.0", "+1.0"]
    for text, colour in zip(axes.texts, ground, strict=True):
        weights = [0.299, 0.587, 0.114]  # of perceived brightness
        assert abs(np.dot(weights, to_rgb(text.get_color())) - np.dot(weights, colour)) > 0.5


def test_the_plot_over_steps_shows_the_spread_over_seeds(axes):
    few, many = (case({"natural": [a, a + 0.02]}, steps=s) for a, s in ((0.7, 10), (0.8, 40)))
    figures._steps(axes, Budget((few, many)), LIGHT)
    (drawn,) = axes.containers
    ends = [np.ptp(segment[:, 1]) for segment in drawn.lines[2][0].get_segments()]
    assert ends == pytest.approx([2 * 0.02 / np.sqrt(2)] * 2)
    assert axes.get_ylabel() == "balanced accuracy, nearest centroid"


def test_no_title_or_label_is_cut_off(tmp_path, monkeypatch):
    """Of a single narrow panel, with names as long as users give them."""
    long = "a-very-long-name-of-a-data-set-with-its-bias"
    values = {"natural": [0.8, 0.81, 0.8], "equilibrium-with-a-long-name": [0.82, 0.81, 0.83]}
    rows = [replace(row, dataset=long, bias=long) for row in case(values).rows]
    for row in rows:
        row.facts.update(effective_distinct=5.0, sampling="systematic", draw="one")
    named = CaseRows("screen", f"{long}/{long}", tuple(rows), (METRIC,), tuple(values))
    seen = []

    @contextmanager
    def kept(*paths, **about):
        with figure_file(*paths, **about) as figure:
            yield figure
        seen.append(figure)

    monkeypatch.setattr(figures, "figure_file", kept)
    for plot in figures.plots_of([named]):
        if plot.cases:
            figures._panels(tmp_path / f"{plot.name}.svg", plot)
    assert len(seen) == 2
    for figure in seen:
        figure.draw_without_rendering()
        renderer, edges = figure.canvas.get_renderer(), figure.bbox
        axis_of = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
        unseen = {  # ticks beyond the ends of their axis, which are not drawn
            id(tick.label1)
            for axis in axis_of
            for tick in axis.get_major_ticks()
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        for text in (text for text in figure.findobj(Text) if id(text) not in unseen):
            box = text.get_window_extent(renderer)
            if text.get_text() and text.get_visible() and box.width > 1:
                assert edges.padded(1).contains(box.x0, box.y0), text.get_text()
                assert edges.padded(1).contains(box.x1, box.y1), text.get_text()


@pytest.mark.parametrize(("hues", "ground"), [(LIGHT, "#ffffff"), (DARK, "#1c1f24")])
def test_series_stand_out_from_the_page_and_from_each_other_for_the_colour_blind(hues, ground):
    def linear(colour):
        c = np.array(to_rgb(colour))
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)

    def lab(light):
        x = _XYZ @ np.clip(light, 0, 1) / [0.95047, 1, 1.08883]
        f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    for hue in hues:
        low, high = sorted(_XYZ[1] @ linear(colour) + 0.05 for colour in (hue, ground))
        assert high / low >= 3  # what WCAG asks of graphics
    for sight in _SIGHTS.values():
        seen = [lab(np.array(sight).reshape(3, 3) @ linear(hue)) for hue in hues]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 14


_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
_SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [
        0.152286,
        1.052583,
        -0.204868,
        0.114503,
        0.786281,
        0.099216,
        -0.003882,
        -0.048116,
        1.051998,
    ],
    "deuteranopia": [
        0.367322,
        0.860646,
        -0.227968,
        0.280085,
        0.672501,
        0.047413,
        -0.01182,
        0.04294,
        0.968881,
    ],
    "tritanopia": [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039],
}
