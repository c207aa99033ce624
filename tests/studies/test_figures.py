"""What a study's plots show, read back from the artists that they draw."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kdbias.studies import figures
from kdbias.studies.comparisons import Budget, CaseRows, Row

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
    figures._gains(axes, case({"natural": [0.8], "even": [0.81], "scratch": [0.4]}, scratch=("scratch",)))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["scratch", "even"]
    (mark,) = axes.texts
    assert mark.get_text() == "← -200"
    assert mark.xy[1] == 0
    assert axes.get_xlabel() == "balanced accuracy, nearest centroid:\nerror removed (%)"


def test_numbers_stand_out_from_the_colour_of_their_group(axes):
    figures._by_group(axes, case({"natural": [1.0, 1.0], "even": [1.1, 1.01]}, metrics=GROUPS))
    (image,) = axes.images
    ground = image.cmap(image.norm(image.get_array()))[0, :, :3]
    assert [text.get_text() for text in axes.texts] == ["+10.0", "+1.0"]
    for text, colour in zip(axes.texts, ground, strict=True):
        weights = [0.299, 0.587, 0.114]  # of perceived brightness
        assert abs(np.dot(weights, to_rgb(text.get_color())) - np.dot(weights, colour)) > 0.5


def test_the_plot_over_steps_shows_the_spread_over_seeds(axes):
    few, many = (case({"natural": [a, a + 0.02]}, steps=s) for a, s in ((0.7, 10), (0.8, 40)))
    figures._steps(axes, Budget((few, many)))
    (drawn,) = axes.containers
    ends = [np.ptp(segment[:, 1]) for segment in drawn.lines[2][0].get_segments()]
    assert ends == pytest.approx([2 * 0.02 / np.sqrt(2)] * 2)
    assert axes.get_ylabel() == "balanced accuracy, nearest centroid"
