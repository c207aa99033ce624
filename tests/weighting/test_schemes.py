import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement.files import Sheet, write_neighbors
from kdbias.sphere import near_chains
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.tables.density_table import read_density
from kdbias.tables.joins import encode
from kdbias.weighting.collapse import groups_of
from kdbias.weighting.diagnostics import summary
from kdbias.weighting.samples import EmbeddingSource, Samples
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.schemes.clusters import default_levels, fill, hierarchy, water_filled
from kdbias.weighting.schemes.distance import relative_power
from kdbias.weighting.schemes.scheme import Weights
from kdbias.weighting.stage import weights


def samples_of(measured, collapse: str = "exact") -> Samples:
    density = read_density(measured.density)
    source = EmbeddingSource(density, None)
    return Samples(density, groups_of(density, collapse, source.vectors), source)


def weigh(method: str, samples: Samples, **options: object) -> Weights:
    return SCHEMES[method](**options).decided(samples.density).weigh(samples)


def test_class_balanced_gives_every_class_the_same_mass(long_tailed):
    values = weigh("class-balanced", samples_of(long_tailed)).values
    labels = np.array(long_tailed.labels)
    masses = [values[labels == c].sum() for c in np.unique(labels)]
    assert masses == pytest.approx([masses[0]] * 5)
    assert all(np.ptp(values[labels == c]) == 0 for c in np.unique(labels))


def test_unlabelled_samples_keep_the_mean_weight(measure):
    labels = ["a"] * 6 + ["b"] * 2 + [None] * 4
    result = weigh("class-balanced", samples_of(measure(np.eye(12), labels=labels)))
    assert result.values[:6].sum() == pytest.approx(result.values[6:8].sum())
    assert result.values[8:] == pytest.approx(np.ones(4))
    assert result.values[:8].mean() == pytest.approx(1)
    assert result.facts == {"classes": 2, "unlabelled": 4}


def test_a_class_of_copies_alone_leaves_no_hole_in_the_codes(measure):
    x = np.eye(6)[[0, 1, 2, 3, 4, 5, 0]]
    data = measure(x, labels=["a", "a", "a", "c", "c", "c", "copies"])
    values = weigh("class-balanced", samples_of(data)).values
    assert values == pytest.approx(np.ones(6))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999999])
def test_effective_number_runs_from_natural_to_class_balanced(long_tailed, beta):
    samples = samples_of(long_tailed)
    values = weigh("effective-number", samples, beta=beta).values
    labels = np.array(long_tailed.labels)
    sizes = np.array([np.sum(labels == label) for label in labels])
    expected = (1 - beta) / (1 - beta**sizes) if beta else np.ones(len(labels))
    assert values == pytest.approx(expected / expected.mean())
    if beta > 0.99:
        assert values == pytest.approx(weigh("class-balanced", samples).values, rel=1e-3)


def test_inverse_density_inverts_the_potential(long_tailed):
    found = weigh("inverse-density", samples_of(long_tailed), t="chosen")
    assert found.values == pytest.approx(1 / long_tailed.kernel.mean(axis=1))
    assert found.facts == {"potential": "density table"}
    excess = 1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1)
    rho = np.mean([np.exp(-2 * t * excess).mean(axis=1) for t in LADDER], axis=0)
    ladder = weigh("inverse-density", samples_of(long_tailed), t=LADDER)
    assert ladder.values == pytest.approx(1 / rho, rel=1e-5)
    assert weigh("inverse-density", samples_of(long_tailed)).values == pytest.approx(found.values)


def test_inverse_density_from_the_embeddings_shows_how_far_it_is(long_tailed, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0)
    monkeypatch.setattr("kdbias.sphere.equilibrium.kernel_matrix._SHOWN_FROM", 0)
    weigh("inverse-density", samples_of(long_tailed), t=LADDER)
    assert "kernel of all pairs: 1/1 tiles" in capsys.readouterr().err


def test_inverse_density_counts_copies_once(measure):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((30, 6))
    copied = measure(np.concatenate([x, x[:5], x[:1]]))
    distinct = measure(x, name="distinct")
    values = weigh("inverse-density", samples_of(copied)).values
    expected = weigh("inverse-density", samples_of(distinct)).values
    assert values / values.mean() == pytest.approx(expected / expected.mean(), rel=1e-5)


def test_knn_distance_is_the_power_of_the_mean_distance_within_its_limits(long_tailed):
    samples = samples_of(long_tailed)
    distances = np.sqrt(np.maximum(2 - 2 * long_tailed.x @ long_tailed.x.T, 0))
    np.fill_diagonal(distances, np.inf)
    mean = np.sort(distances, axis=1)[:, :3].mean(axis=1)
    expected = (mean / np.median(mean)) ** 2
    assert weigh("knn-distance", samples, exponent=2.0).values == pytest.approx(expected, rel=1e-3)
    steep = weigh("knn-distance", samples, exponent=50.0)
    assert (steep.values.min(), steep.values.max()) == (0.1, 10.0)
    assert steep.facts["limited"] > 0
    assert weigh("knn-distance", samples, exponent=0.0).values == pytest.approx(np.ones(195))


def test_neighbours_that_a_search_missed_do_not_count(measure):
    data = measure(np.eye(4))
    cosines = np.array([[0.5, 0.0], [0.5, 0.5], [0.0, -2.0], [-2.0, -2.0]], dtype=np.float32)
    positions = np.where(cosines < -1, -1, 0)
    density = read_density(data.density)
    write_neighbors(Sheet(data.density, density.id_parts, density.cut, {}), positions, cosines)
    result = weigh("knn-distance", samples_of(data))
    assert result.facts["neighbors"] == "kept"
    distance = np.array([(1 + np.sqrt(2)) / 2, 1, np.sqrt(2)])
    assert result.values == pytest.approx([*(distance / np.median(distance)), 1])


def test_relative_power_serves_zeros_and_gaps():
    values, limited = relative_power(np.array([0.0, 0, 0, 2, np.nan]), 1.0, "here", "distance")
    assert values == pytest.approx([0.1, 0.1, 0.1, 1, 1])
    assert limited == 3
    with pytest.raises(KdbiasError, match="here has no distance"):
        relative_power(np.array([np.nan]), 1.0, "here", "distance")


def test_hard_weighs_by_the_distance_to_the_other_samples_of_the_label(measure):
    x = np.array([[1, 0, 0], [1, 0.1, 0], [1, -0.1, 0], [0.2, 1, 0], [0, 0, 1], [0, 0.1, 1], [-1, 0, 0]])
    data = measure(x, labels=["a", "a", "a", "a", "b", "b", "single"])
    result = weigh("hard", samples_of(data))
    hardness = np.full(7, np.nan)
    for i, rows in enumerate([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [5], [4]]):
        centre = data.x[rows].sum(axis=0)
        hardness[i] = 1 - data.x[i] @ centre / np.linalg.norm(centre)
    expected = np.clip(hardness / np.nanmedian(hardness), 0.1, 10)
    expected[6] = 1
    assert result.values == pytest.approx(expected, rel=1e-4)
    assert result.values.argmax() == 3
    assert result.facts["without_hardness"] == 1
    with pytest.raises(KdbiasError, match="needs a class of two samples or more"):
        weigh("hard", samples_of(measure(np.eye(3), labels=["a", "b", "c"], name="singles")))


def test_cluster_balanced_flattens_clusters_but_never_past_its_budget(measure):
    rng = np.random.default_rng(0)
    sizes = [150, 30, 10]
    x = np.concatenate([np.eye(8)[i] + 0.05 * rng.normal(size=(s, 8)) for i, s in enumerate(sizes)])
    samples = samples_of(measure(x))
    values = weigh("cluster-balanced", samples, clusters=[3], keep=0.2).values
    # 38 draws: the cluster of 10 is drawn out, the two others share the rest.
    masses = [part.sum() for part in np.split(values, np.cumsum(sizes)[:-1])]
    assert masses == pytest.approx([14, 14, 10])
    assert weigh("cluster-balanced", samples, clusters=[3], keep=1.0).values == pytest.approx(np.ones(190))
    again = weigh("cluster-balanced", samples, clusters=[3], keep=0.2).values
    assert (values == again).all()
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(2)
    alone = weigh("cluster-balanced", replace(samples, threads=1), clusters=[3], keep=0.2).values
    assert faiss.omp_get_max_threads() == 1
    assert (values == alone).all()


def test_hierarchy_and_water_filling_conserve_the_budget():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    levels = hierarchy(x, [40, 5])
    assert [len(level) for level in levels] == [400, 40]
    assert levels[0].max() < 40
    assert levels[1].max() < 5
    values = water_filled(levels, [40, 5], 0.3)
    assert values.sum() == pytest.approx(120)
    assert values.min() >= 0
    assert values.max() <= 1
    tops = np.bincount(levels[1][levels[0]], weights=values)
    sizes = np.bincount(levels[1][levels[0]])
    assert tops == pytest.approx(fill(sizes.astype(float), 120.0))


def test_empty_clusters_get_nothing_and_harm_nobody():
    # Tight bursts leave k-means with centroids that no sample is nearest to, often the last ones.
    samples, clusters = np.array([0, 0, 0, 0, 2, 2]), np.array([0, 1, 1, 0, 0])
    values = water_filled([samples, clusters], [5, 3], 0.5)
    assert values == pytest.approx([0.375] * 4 + [0.75] * 2)


def test_fill_finds_the_water_level():
    sizes = np.array([5.0, 1, 3, 8])
    assert fill(sizes, 8.0) == pytest.approx([7 / 3, 1, 7 / 3, 7 / 3])
    assert fill(sizes, 12.0) == pytest.approx([4, 1, 3, 4])
    assert fill(sizes, 99.0) == pytest.approx(sizes)
    assert fill(sizes, 0.0) == pytest.approx(np.zeros(4))


def test_default_levels_shrink_tenfold():
    assert default_levels(8_000) == [400, 40]
    assert default_levels(25) == [2]
    assert default_levels(10**7) == [10_000, 1_000, 100, 10]


def test_groups_follow_the_density_table(measure):
    x = np.eye(5)[[0, 1, 0, 2, 1, 0, 3]]
    density = read_density(measure(x).density)
    assert density.first_equal.tolist() == [0, 1, 0, 3, 1, 0, 6]
    groups = groups_of(density, "exact", lambda: x)
    assert groups.distinct == 4
    assert groups.sizes.tolist() == [3, 2, 1, 1]
    assert groups.spread(groups.collapse(np.full(7, 1 / 7))) == pytest.approx(np.full(7, 1 / 7))
    assert groups_of(density, "none", lambda: x).distinct == 7


def test_near_copies_form_chains(measure):
    angles = np.array([0, 0.04, 0.08, 0.5, 0.52, 1.5])
    data = measure(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    density = read_density(data.density)
    # cos 0.04 = 0.9992 and cos 0.08 = 0.9968: the first and the third are linked by the second alone.
    groups = groups_of(density, "near", lambda: data.x.astype(np.float32))
    assert groups.group.tolist() == [0, 0, 0, 1, 1, 2]
    tight = groups_of(density, "near", lambda: data.x.astype(np.float32), threshold=0.99975)
    assert tight.group.tolist() == [0, 1, 2, 3, 3, 4]
    loose = groups_of(density, "near", lambda: data.x.astype(np.float32), threshold=0.8)
    assert loose.group.tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("links", [1, 1 << 20])
def test_chains_equal_a_walk_over_all_pairs_whatever_the_block(monkeypatch, links):
    monkeypatch.setattr(near_chains, "_BLOCK", 7)
    monkeypatch.setattr(near_chains, "_LINKS", links)
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1)[:, None]
    x[50] = x[4]
    first = np.arange(120)
    first[50] = 4
    expected = np.arange(120)
    linked = (x @ x.T >= 0.985) | (first[:, None] == first[None, :])
    for _ in range(120):  # the least row that can be reached
        expected = np.where(linked, expected[None, :], 120).min(axis=1)
    found = near_chains.near_chains(x, first, np.arange(120), 0.985)
    assert found.tolist() == expected.tolist()
    assert 5 < len(set(found.tolist())) < 100


def test_a_long_burst_takes_memory_by_samples_not_by_pairs(monkeypatch):
    monkeypatch.setattr(near_chains, "_BLOCK", 250)
    n = 3000
    x = np.repeat(np.eye(4, dtype=np.float32)[:1], n, axis=0)
    tracemalloc.start()
    chains = near_chains.near_chains(x, np.arange(n), np.arange(n), 0.999)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not chains.any()
    assert peak < 16 * n * n / 10  # 4.5 million pairs alone would take 72 MB


def test_summary_follows_kish():
    w = np.array([3.0, 1, 0, 0])
    numbers = summary(w, w / 4, encode(pa.array(["a", "b", None, "b"]))[0])
    assert numbers["ess"] == pytest.approx(16 / 10)
    assert numbers["ess_share"] == pytest.approx(0.4)
    assert numbers["zero_weights"] == 2
    assert numbers["max_weight"] == 3
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert numbers["effective_identities"] == pytest.approx(np.exp(entropy))


@pytest.mark.parametrize(
    ("n", "more", "way"), [(2, {}, "choose another"), (9, {"clusters": [9]}, "--clusters")]
)
def test_clusters_that_cannot_be_say_a_way_out(measure, tmp_path, n, more, way):
    data = measure(np.eye(9)[:n])
    with pytest.raises(KdbiasError, match=f"below the {n} distinct samples: .*{way}"):
        weights(data.density, tmp_path / "w.parquet", method="cluster-balanced", **more)
