"""The map's numbers, its places, who is drawn, copies and what is spread: each against what it should be."""

import base64
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from kdbias.reporting import report
from kdbias.reporting.copies import ALIKE, copies
from kdbias.reporting.explorer import SCALES, ends
from kdbias.reporting.group_tables import best_scheme, group_table, wilson
from kdbias.reporting.projection import placed
from kdbias.reporting.spread import spread
from tests import reference


def decoded(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


@pytest.fixture(scope="module")
def document(outputs, tmp_path_factory):
    """What the script of a page reads."""
    page = tmp_path_factory.mktemp("map") / "r.html"
    report(outputs.root, page, map_pictures=20)
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def test_the_map_holds_the_numbers_of_the_files(document, outputs):
    assert [document["prefix"] + rest for rest in document["ids"]] == outputs.ids
    density, weight = document["fields"]
    assert (density["kind"], weight["kind"], weight["name"]) == ("density", "weight", "equilibrium")
    np.testing.assert_allclose(decoded(density["values"], "<f4"), outputs.log_density, rtol=1e-6)
    np.testing.assert_allclose(decoded(weight["values"], "<f4"), outputs.weights["equilibrium"], rtol=1e-6)
    label = next(column for column in document["columns"] if column["name"] == "label")
    assert [label["values"][code] for code in decoded(label["codes"], "<u2")] == outputs.labels


def test_the_map_shows_pictures_of_as_many_samples_as_asked_and_none_that_is_broken(document):
    places = decoded(document["pictures"]["places"], "<i2")
    assert sorted(places[places >= 0]) in (list(range(20)), list(range(19)))  # one of the data is broken
    assert places[5] == -1


def test_the_most_crowded_sample_has_the_colour_that_the_key_calls_crowded(document, outputs):
    field = document["fields"][0]
    assert field["least"].startswith("isolated (")
    assert field["most"].startswith("crowded (")
    assert field["low"] < field["high"] <= outputs.log_density.max()
    for page, sign in (("light", -1), ("dark", 1)):  # the more crowded, the further from the page's colour
        shine = [sum(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in SCALES["density"][page]]
        assert (np.diff(shine) * sign > 0).all()


def test_the_ends_of_the_colours():
    assert ends("weight", np.array([0.25, 1.0, 1.0, 4.0] * 100)) == (-2.0, 2.0)
    assert ends("witness", np.array([-3.0, 1.0, np.nan])) == pytest.approx((-2.98, 2.98))
    assert ends("density", np.full(4, -1.0)) == (-1.0, 0.0)
    assert ends("density", np.full(4, np.nan)) == (0.0, 1.0)


def test_of_many_samples_the_map_shows_some_and_says_so(outputs, tmp_path):
    report(outputs.root, tmp_path / "r.html", dots=30, pictures=0)
    html = (tmp_path / "r.html").read_text()
    assert "30 of 90 samples, drawn at random (33.3 %)." in html
    found = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html).group(1))
    assert len(found["ids"]) == len(decoded(found["x"], "<u2")) == 30
    report(outputs.root, tmp_path / "r.html", dots=0)
    assert "application/json" not in (tmp_path / "r.html").read_text()


def test_neighbours_are_kept_where_two_directions_show_too_little():
    x = reference.random_sphere(300, 40, 0).astype(np.float32)
    found = placed(x)
    assert found.method == "tsne"
    assert found.variance < 0.2
    assert found.kept > 2 * found.kept_by_directions
    assert f"{100 * found.kept:.1f} % are among its 10 nearest here" in found.caption()
    plain = placed(x, "pca")
    assert plain.method == "pca"
    assert plain.kept == plain.kept_by_directions == found.kept_by_directions
    assert "may be far apart" in plain.caption()
    assert placed(x[:, :3]).method == "pca"  # two directions hold enough
    assert placed(x[:5]).method == "pca"
    assert placed(np.repeat(x[:1], 40, axis=0)).xy.tolist() == [[0.0, 0.0]] * 40


def groups(target=None, labels="aaabbbbbbb"):
    """A density table of ten samples."""
    table = pa.table({"label": list(labels)})
    numbers = np.linspace(-2, -1, len(labels))
    held = SimpleNamespace(table=table, labels=table["label"], group_columns=[], numbers=lambda name: numbers)
    schemes = [{"name": "natural", "bandwidths": []}]
    return SimpleNamespace(table=held, numbers={"target": target, "schemes": schemes}, bandwidth="5")


def test_shares_before_after_and_in_the_target_with_their_intervals():
    row = {"value": "a", "share": 0.3, "share_reference": 0.5, "balance": "short"}
    other = {"value": "c", "share": 0.0, "share_reference": 0.5, "balance": "short"}
    target = {"columns": {"label": [row, other]}, "size": 20, "effective_size": 20.0}
    w = np.array([2.0] * 3 + [4 / 7] * 7)
    found = group_table(groups(target), "label", {"mine": w})
    texts = [[cell.text for cell in line] for line in found.rows]
    assert [line[0] for line in texts] == ["b", "a", "c"]
    low, high = binomtest(3, 10).proportion_ci(method="wilson")
    assert texts[1][1:3] == ["3", f"30.0 % [{100 * low:.1f}, {100 * high:.1f}]"]
    assert texts[1][3].startswith("60.0 % [")
    low, high = binomtest(10, 20).proportion_ci(method="wilson")
    assert texts[1][4:6] == [f"50.0 % [{100 * low:.1f}, {100 * high:.1f}]", "short"]
    assert texts[2][1:2] + texts[2][4:6] == ["0", *texts[1][4:6]]
    assert texts[1][6] == f"{np.linspace(-2, -1, 10)[:3].mean():.3f}"


def test_equal_weights_are_as_uncertain_as_the_samples_and_few_heavy_ones_more():
    same = group_table(groups(), "label", {"natural": np.ones(10)}).rows
    assert all(line[2].text == line[3].text for line in same)
    heavy = group_table(groups(labels="ab" * 50), "label", {"w": np.array([9.0, 9.0] + [0.0] * 98)}).rows
    share = heavy[0][3].text
    low, high = wilson(0.5, 2)  # two samples carry all draws
    assert share == f"50.0 % [{100 * low:.1f}, {100 * high:.1f}]"


def test_the_scheme_that_is_shown_removes_most_or_is_worth_most():
    def scheme(name, removed, distinct, ess=0.5):
        at = [{"t": 5.0, "effective_distinct": distinct}]
        return {"name": name, "discrepancy": {"removed": removed}, "bandwidths": at, "ess_share": ess}

    density = groups(target={"columns": {}})
    density.numbers["schemes"] = [scheme("natural", 0, 9), scheme("a", 0.2, 8), scheme("b", 0.7, 2)]
    weights = dict.fromkeys(("natural", "a", "b"), np.ones(10))
    assert best_scheme(density, weights) == "b"
    density.numbers["target"] = None
    assert best_scheme(density, weights) == "a"
    density.numbers["schemes"][1]["ess_share"] = 0.1  # few samples carry its draws
    assert best_scheme(density, weights) == "b"
    assert best_scheme(density, {"natural": np.ones(10)}) is None
    assert best_scheme(density, {"unmeasured": np.ones(10)}) == "unmeasured"


def test_copies_are_grouped_by_what_hangs_together():
    angle = np.arccos(ALIKE) * 0.9
    turns = np.array([0, angle, 2 * angle, 1.5, 1.5, 3.0])  # the first three in a chain, then two, then one
    x = np.stack([np.cos(turns), np.sin(turns)], 1).astype(np.float32)
    rows = np.array([3, 5, 8, 10, 11, 20])
    found = copies(rows, x, 6)
    assert [group.tolist() for group in found.groups] == [[3, 5, 8], [10, 11]]
    assert copies(rows[:0], x[:0], 0).groups == []


def test_pictures_are_spread_over_neighbourhoods_and_labels():
    x = np.array([[1, 0], [0.9999, 0.0141], [0, 1], [-1, 0], [0, -1]], np.float32)
    reach = np.full(5, 0.1)
    assert spread(3, [None] * 5, x, reach) == [0, 2, 3, 1, 4]  # the second is the first again
    assert spread(3, list("aabca"), None, None) == [0, 2, 3, 1, 4]  # one label in three
    assert spread(2, ["a"] * 5, None, None) == [0, 1, 2, 3, 4]
    assert spread(3, ["a", "a", "b"], x[[0, 1, 2]], reach) == [0, 2, 1]
    assert spread(2, ["a"] * 3, x[[0, 1, 3]], np.full(3, 3.0)) == [0, 2, 1]  # no two alike, if any differ
    assert sorted(spread(9, ["a"] * 5, x, reach)) == [0, 1, 2, 3, 4]  # nothing is lost
