"""What the figures compute before they draw."""

import re

import numpy as np
import pytest

from kdbias.display.figure import LIGHT, SERIES, figure_file, legend_below, legend_of_all, looks, panel
from kdbias.display.quantities import QUANTITIES, Quantity
from kdbias.reporting import figures, projection, sample_figures
from kdbias.reporting.figures import results_by_scheme


def point(*values):
    """A scheme at a bandwidth, as the rows of uniformity tables have it."""
    keys = ("scheme", "t", "ess_share", "uniformity", "null", "effective_distinct", "distinct_ceiling")
    return dict(zip(keys, values, strict=True))


def test_lorenz_of_known_weights():
    share, draws = sample_figures.lorenz(np.array([3.0, 0.0, 1.0, 0.0]), points=5)
    np.testing.assert_allclose(share, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(draws, [0, 0, 0, 0.25, 1])


def test_samples_without_a_density_are_left_out_of_its_histogram():
    values = np.array([np.nan, -1.0, -2.0])
    sample_figures.density_histogram("density", values, {"w": np.ones(3)}, looks(["natural", "w"]), "5")
    sample_figures.density_histogram("nothing", values[:1], {}, looks(["natural"]), "5")


def test_the_target_has_its_share_of_each_group():
    groups = ["b"] * 6 + ["a"] * 3 + [None]
    wanted = {"a": 0.5, None: 0.2, "elsewhere": 0.3}
    shares = sample_figures.group_shares("race", groups, {"w": np.ones(10)}, wanted)
    assert shares.values == ("b", "a", "(none)")
    assert shares.target == pytest.approx([0, 0.5, 0.2])
    assert "in the target" in sample_figures.group_figure("g", shares, looks(["natural", "w"])).panels[0]


def test_group_shares_before_and_after():
    groups = ["a"] * 6 + ["b"] * 3 + [None]
    w = np.array([0.5] * 6 + [1.0] * 3 + [4.0])
    shares = sample_figures.group_shares("race", groups, {"natural": np.ones(10), "mine": w})
    assert shares.values == ("a", "b", "(none)")
    np.testing.assert_allclose(shares.natural, [0.6, 0.3, 0.1])
    np.testing.assert_allclose(shares.schemes["mine"], [0.3, 0.3, 0.4])
    assert list(shares.schemes) == ["mine"]


def test_rare_groups_are_put_together_and_lose_nothing():
    groups = [str(i) for i in range(40) for _ in range(1 + i % 3)]
    shares = sample_figures.group_shares("id", groups, {"w": np.arange(len(groups)) + 1.0})
    assert len(shares.values) == 12
    assert shares.values[-1] == "29 others"
    assert shares.natural.sum() == pytest.approx(1)
    assert shares.schemes["w"].sum() == pytest.approx(1)


def test_principal_directions_match_a_singular_value_decomposition():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    places, variance = projection.principal(x)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(places), np.abs(u[:, :2] * s[:2]), atol=1e-8)
    assert variance == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())


def test_natural_has_the_baseline_look_and_others_differ():
    found = looks(["natural", *(f"s{i}" for i in range(12))])
    assert found["natural"].color == SERIES[0]
    assert len({(v.color, v.line) for v in found.values()}) == 13
    assert len({(v.color, v.marker) for v in found.values()}) == 13
    assert looks(["b", "natural", "c"])["c"] == looks(["natural", "b", "c"])["c"]


def test_svg_ids_are_unique_to_the_panel_and_text_stays_text():
    def draw(axes):
        axes.plot([0, 1], [0, 1], "o", label="<one> & two")
        axes.set_xlabel("x (m)")
        axes.legend()

    first, second = panel("first", draw), panel("second", draw)
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', first):
        assert reference in ids[0]
    assert ">x (m)</text>" in first
    assert "&lt;one&gt; &amp; two" in first
    assert "<?xml" not in first


def test_a_long_legend_makes_the_panel_taller_not_the_axes_smaller():
    def axes_height(count, name):
        drawn = []

        def draw(axes):
            drawn.append(axes)
            for i in range(count):
                axes.plot([0, 1], [i, i], label=f"{name} {i}")
            legend_below(axes, 2)

        panel("p", draw)
        return drawn[0].get_position().height * drawn[0].figure.get_figheight()

    assert axes_height(14, "scheme") > 0.95 * axes_height(4, "scheme")
    long = "a scheme (student mobilefacenet)"
    assert axes_height(4, long) > 0.95 * axes_height(4, "scheme")


def test_a_file_is_drawn_with_the_colours_of_a_light_page_and_comes_out_the_same_again(tmp_path):
    look = looks(["natural", "w"], LIGHT)
    for name in ("first", "again"):
        paths = [tmp_path / f"{name}.{suffix}" for suffix in ("png", "svg")]
        with figure_file(*paths, width=4, height=3) as figure:
            for axes in figure.subplots(1, 2):
                axes.plot([0, 1], [0, 1], **look["natural"].stroke)
                axes.plot([0, 1], [1, 0], **look["w"].dots)
            legend_of_all(figure, 2)
    svg = (tmp_path / "first.svg").read_text()
    assert svg == (tmp_path / "again.svg").read_text()
    assert svg.count(">natural</text>") == svg.count(">w</text>") == 1  # one legend for both panels
    assert LIGHT[0] in svg
    assert LIGHT[1] in svg
    assert (tmp_path / "first.png").read_bytes().startswith(b"\x89PNG")


def test_values_are_written_with_their_spread():
    accuracy = QUANTITIES["centroid_balanced_accuracy"]
    assert accuracy.spread([0.70, 0.72, 0.74]) == "72.0 ± 2.0"
    assert accuracy.spread([0.7]) == "70.0"
    assert accuracy.spread([]) == "n/a"
    assert QUANTITIES["distance"].spread([0.25, 0.75]) == "0.5000 ± 0.3536"


def test_dollar_signs_in_names_are_not_taken_for_mathematics():
    svg = panel("money", lambda axes: axes.set_xlabel("a$b_{c}$ (%)"))
    assert ">a$b_{c}$ (%)</text>" in svg


def test_weights_that_are_all_one_need_no_histogram():
    assert sample_figures.weight_histogram("w", {"natural": np.ones(4)}, looks(["natural"])) is None


def test_points_without_a_value_are_left_out():
    dots = [point("natural", 2.0, 1.0, None, -3.9, None, 50.0)]
    assert figures.uniformity_against_ess("u", dots, looks(["natural"])) is None


def test_a_dot_alone_is_no_trade_off_and_the_dotted_line_is_named_only_where_it_is_drawn():
    def dot(scheme, t, ess, uniformity, null=-30.0):
        return point(scheme, t, ess, uniformity, null, 9.0, 1e9)

    look = looks(["natural", "w"])
    alone = [dot("natural", 2.0, 1.0, -1.0), dot("natural", 5.0, 1.0, -3.0)]
    assert figures.uniformity_against_ess("u", alone, look) is None
    pair = [*alone, dot("w", 5.0, 0.5, -3.5)]
    figure = figures.uniformity_against_ess("u", pair, look)
    assert len(figure.panels) == 1
    assert "dotted" not in figure.caption
    near = [dot("natural", 5.0, 1.0, -3.0, -3.9), dot("w", 5.0, 0.5, -3.5, -3.9)]
    figure = figures.uniformity_against_ess("u", near, look)
    assert "dotted" in figure.caption
    assert "uniform sphere</text>" in figure.panels[0]
    figure = figures.distinct_across_bandwidths("d", pair, look)
    assert "dotted" not in figure.caption
    assert "ceiling" not in figure.panels[0]


def test_an_optimum_is_inside_the_panel():
    dots = [point("natural", 2.0, 1.0, -3.0, -9.0, 9.0, 50.0)]
    frontier = {2.0: [(0.4, -3.5), (0.9, -3.1)]}
    figure = figures.uniformity_against_ess("u", dots, looks(["natural", "equilibrium"]), frontier)
    ticks = [float(v.replace("\u2212", "-")) for v in re.findall(r">(\u2212[\d.]+)<", figure.panels[0])]
    assert min(ticks) < -3.4


def test_ticks_say_their_whole_value_without_an_offset():
    def draw(axes):
        axes.plot([0, 1], [-1.06301, -1.06302])

    texts = re.findall(r"<text[^>]*>([^<]*)</text>", panel("p", draw))
    assert all(text.startswith("\u22121.063") for text in texts if text.startswith("\u2212"))
    assert "\u22121.063" not in texts


def test_results_show_one_dot_a_run():
    figure = results_by_scheme(
        "r",
        {"a": {"x": [0.1, 0.2, 0.3], "y": [0.2]}},
        {"a": Quantity("accuracy (%)", better="higher")},
        looks("xy"),
    )
    assert figure is not None
    assert "1 to 3 runs a scheme" in figure.caption
    assert ">accuracy</text>" in figure.panels[0]
    assert ">%; right is better</text>" in figure.panels[0]


def test_single_runs_have_no_spread_and_a_single_one_no_figure():
    measures = {"a": Quantity("accuracy (%)", better="higher")}
    assert results_by_scheme("r", {"a": {"x": [0.1]}}, measures, looks("x")) is None
    figure = results_by_scheme("r", {"a": {"x": [0.1], "y": [0.2]}}, measures, looks("xy"))
    assert "(1 run a scheme)" in figure.caption
    assert "standard deviation" not in figure.caption
