"""The estimate past exact: close to the exact values, and its intervals hold at their stated rate."""

import tracemalloc

import numpy as np
import pytest

from kdbias.sphere.all_pairs import all_pairs
from kdbias.sphere.cells.check import CellCheck, agreement, neighbour_quality
from kdbias.sphere.cells.estimate import CellEstimate, estimate_bytes, estimate_pairs
from kdbias.sphere.cells.gathering import Entries
from kdbias.sphere.cells.host import Host, around, exact_cosines
from kdbias.sphere.cells.job import CellJob, Estimate
from tests import reference

T = [2.0, 4.0, 10.0]


def coverage(estimate: CellEstimate, exact: np.ndarray) -> np.ndarray:
    return (np.abs(estimate.pairs.without_self - exact) <= estimate.half_widths).mean(axis=2)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    x = reference.clustered_sphere(4000, 24, 60)
    p = np.stack(
        [reference.natural(4000), reference.probabilities(np.random.default_rng(1).random(4000) ** 2)]
    )
    return x, p


@pytest.fixture(scope="module", params=["cpu", "cpu:0", "cuda:0"])
def device(request: pytest.FixtureRequest) -> str:
    """NumPy, torch on the CPU, and a GPU."""
    if request.param == "cuda:0" and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(scope="module")
def estimate(data, device: str) -> CellEstimate:
    how = Estimate(k=10, near=0.9, share=0.08, threads=2, device=device)
    return estimate_pairs(data[0], T, data[1], how=how)


def test_potentials_are_close(data, estimate: CellEstimate) -> None:
    exact = all_pairs(data[0], T, data[1], threads=2)
    relative = estimate.pairs.potentials / exact.potentials - 1
    rms = np.sqrt((relative**2).mean(axis=2))
    assert rms[:, :2].max() < 0.004
    stated = np.array(estimate.quality["rms_relative_error"])
    assert (rms[:, :2] < 1.5 * stated[:, :2] + 1e-5).all()
    assert estimate.quality["pairs_share"] < 0.15


def test_intervals_cover_at_their_stated_rate(data, estimate: CellEstimate) -> None:
    exact = all_pairs(data[0], T, data[1], threads=2)
    covered = coverage(estimate, exact.without_self)
    # 384 calibration samples leave the rate itself a standard deviation of 1.1 %.
    assert (covered > 0.95 - 0.04).all()


def test_energies_are_within_their_errors(data, estimate: CellEstimate) -> None:
    exact = all_pairs(data[0], T, data[1], threads=2)
    off = np.abs(estimate.pair_energies - exact.pair_energies)
    assert (off <= 4 * estimate.energy_errors + 2e-6 * exact.pair_energies).all()
    assert (estimate.energy_errors < 0.02 * exact.pair_energies).all()


def test_energies_are_unbiased_whatever_the_estimate_is_off_by(data) -> None:
    x = data[0][:3000]
    p = reference.natural(3000)[None]
    check = CellCheck(Host(CellJob(x, T, p, Estimate(share=0.02, threads=1))))
    exact = all_pairs(x, T, threads=1)
    # Judging samples off by 5 % say that all samples are.
    check.near *= 1.05
    for correction in check.corrections:
        correction.factors[:] *= 1.05
    alike = np.ones_like(exact.without_self)
    energies, errors = check.energies(0, 1.05 * exact.without_self, alike, p)
    assert (np.abs(energies - exact.pair_energies) <= 4 * errors).all()
    assert (errors < 0.004 * exact.pair_energies).all()
    alike[:, :, check.rows] = 0.5  # the judging samples happened to be easy
    harder = check.energies(0, 1.05 * exact.without_self, alike, p)[1]
    np.testing.assert_allclose(harder / errors, np.sqrt((alike**2).mean() / 0.25), rtol=1e-6)


def test_pairs_are_looked_at_once(data) -> None:
    x = data[0][:700]
    host = Host(CellJob(x, [3.0], reference.natural(700)[None], Estimate(k=5, share=0.1, threads=1, tile=16)))
    rows, cells = host.job.cells.order[100:400], host.job.cells
    near = np.random.default_rng(0).random((300, cells.count)) < 0.2
    always = np.arange(300)[:, None], host.around[cells.cell[rows]]
    entries = Entries(cells.count)
    entries.add(0, near[:120], always[1][:120])
    entries.add(120, near[120:], always[1][120:])
    seen = np.zeros((300, 700), dtype=int)
    for members, places, own in host._pieces(rows, entries):
        seen[np.ix_(places, members)] += 1
        if own is not None:
            here = (own >= 0) & (own < len(members))
            np.testing.assert_array_equal(members[own[here]], rows[places[here]])
    near[always] = True
    np.testing.assert_array_equal(seen, near[:, cells.cell])


def test_cells_around_are_those_of_nearest_means_until_they_hold_enough() -> None:
    means, sizes = reference.random_sphere(60, 8).astype(np.float32), np.arange(60) % 7 + 1
    found = around(means, sizes, 3)
    cosines = reference.cosines(means)
    np.fill_diagonal(cosines, 2)
    for own, (row, order) in enumerate(zip(found, np.argsort(-cosines, axis=1), strict=True)):
        held = sizes[order].cumsum()
        wanted = order[: min(6, 1 + np.searchsorted(held, 18))]
        assert list(dict.fromkeys(row)) == wanted.tolist()
        assert row[0] == own
    assert around(means, sizes, 0).tolist() == [[own] for own in range(60)]


def test_every_sample_finds_its_k_neighbours(device: str) -> None:
    x = np.concatenate([reference.clustered_sphere(900, 8, 3, spread=0.05), reference.random_sphere(40, 8)])
    found = estimate_pairs(
        x.astype(np.float32), [2.0], how=Estimate(k=20, share=0.01, threads=1, device=device)
    )
    assert (found.pairs.ids >= 0).all()


def test_neighbours_and_their_recall(data, estimate: CellEstimate) -> None:
    exact = reference.neighbors(data[0], 10)
    ids, cosines = estimate.pairs.ids, estimate.pairs.cosines
    assert ids is not None
    assert not (ids == np.arange(4000)[:, None]).any()
    real = np.einsum("nd,nkd->nk", data[0], data[0][ids])
    np.testing.assert_allclose(cosines, real, atol=1e-5)
    recall = (cosines >= exact[1][:, -1:] - 1e-6).mean()
    assert estimate.quality["recall"] == pytest.approx(recall, abs=0.03)
    assert recall > 0.8


def test_counts_miss_little(data, estimate: CellEstimate) -> None:
    exact = (reference.cosines(data[0]) >= 0.9).sum(axis=1) - 1
    assert (estimate.pairs.counts <= exact).all()
    assert estimate.pairs.counts.sum() >= 0.9 * exact.sum()


def test_looking_into_all_cells_is_exact(data, device: str) -> None:
    x = data[0][:500]
    estimate = estimate_pairs(x, T, how=Estimate(k=5, near=0.9, share=1.0, threads=1, device=device))
    exact = all_pairs(x, T, k=5, near=0.9, threads=1)
    np.testing.assert_allclose(estimate.pairs.potentials, exact.potentials, rtol=2e-5)
    np.testing.assert_allclose(estimate.pairs.cosines, exact.cosines, atol=1e-6)
    np.testing.assert_array_equal(estimate.pairs.counts, exact.counts)
    np.testing.assert_allclose(estimate.pair_energies, exact.pair_energies, rtol=2e-5)
    assert estimate.quality["recall"] == 1.0
    assert coverage(estimate, exact.without_self).min() > 0.99


def test_pairs_are_chosen_by_the_wanted_error_and_recall(data, device: str) -> None:
    x = data[0]
    loose = estimate_pairs(x, [2.0], how=Estimate(tolerance=0.5, threads=2, device=device)).quality
    tight = estimate_pairs(x, [2.0], how=Estimate(tolerance=1e-9, threads=2, device=device)).quality
    found = estimate_pairs(
        x, [2.0], how=Estimate(tolerance=0.5, k=10, recall=0.6, threads=2, device=device)
    ).quality
    assert loose["pairs_share"] < found["pairs_share"] < tight["pairs_share"] == 1
    assert found["recall"] > 0.55
    assert loose["probes"] < tight["probes"]


def test_weights_are_not_followed_to_where_all_pairs_are_cheaper(data, capsys) -> None:
    x, p = data
    how = Estimate(tolerance=1e-9, threads=2)
    assert estimate_pairs(x, [2.0], p[1:], how=how).quality["pairs_share"] < 0.085
    assert "exact" not in capsys.readouterr().err
    assert estimate_pairs(x, [2.0], p, how=how).quality["pairs_share"] == 1
    assert "100% of the pairs, one by one; --search exact takes less time" in capsys.readouterr().err


def test_same_seed_same_estimate(data, device: str) -> None:
    x = data[0][:800]
    one, other = (
        estimate_pairs(x, [3.0], how=Estimate(share=0.05, threads=t, device=device, seed=5)) for t in (1, 3)
    )
    np.testing.assert_allclose(one.pairs.potentials, other.pairs.potentials, rtol=1e-9)
    np.testing.assert_allclose(one.pair_energies, other.pair_energies, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_samples(n: int, device: str) -> None:
    x = reference.random_sphere(n, 4)
    estimate = estimate_pairs(x, [2.0], how=Estimate(k=n - 1, threads=1, device=device))
    np.testing.assert_allclose(estimate.pairs.potentials[0, 0], reference.potentials(x, 2.0), rtol=1e-5)


def test_duplicates(data, device: str) -> None:
    x = np.repeat(reference.random_sphere(4, 8), 100, axis=0)
    estimate = estimate_pairs(x, [3.0], how=Estimate(k=7, near=0.999, threads=1, device=device))
    np.testing.assert_allclose(estimate.pairs.potentials[0, 0], reference.potentials(x, 3.0), rtol=1e-3)
    assert (estimate.pairs.counts == 99).all()


@pytest.mark.parametrize("name", ["lfw112/lfw_ov0095_f16.npy", "market1501_train/market_ov0277_f16.npy"])
def test_covers_on_real_embeddings(real_data, device: str, name: str) -> None:
    x = np.load(real_data / name).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    t = [2.0, 5.0]
    estimate, exact = estimate_pairs(x, t, how=Estimate(seed=2, device=device)), all_pairs(x, t)
    off = estimate.pairs.potentials / exact.potentials - 1
    assert np.sqrt((off**2).mean(axis=2)).max() <= 1e-3
    assert (coverage(estimate, exact.without_self) > 0.91).all()
    off = np.abs(estimate.pair_energies - exact.pair_energies)
    assert (off <= 3.5 * estimate.energy_errors).all()
    assert (np.array(estimate.quality["spearman"]) > 0.99).all()


def test_samples_that_see_nothing_have_finite_errors(device: str) -> None:
    x = reference.clustered_sphere(600, 16, 3, spread=0.2)
    p = reference.probabilities(reference.cosines(x)[0] > 0.5)
    t = [4.0, 300.0, 4300.0]
    estimate, exact = (
        estimate_pairs(x, t, p, how=Estimate(threads=1, device=device)),
        all_pairs(x, t, p, threads=1),
    )
    assert (exact.potentials == 0).any()
    for name in ("rms_relative_error", "largest_relative_error"):
        assert np.isfinite(estimate.quality[name]).all()
    assert np.min(estimate.quality["spearman"]) > 0.99
    assert (coverage(estimate, exact.without_self)[:, 1:] > 0.95 - 0.04).all()


def test_intervals_cover_where_rounding_is_all_there_is(data, device: str) -> None:
    x = data[0][:600]  # as few as are computed exactly
    estimate, exact = estimate_pairs(x, T, how=Estimate(threads=1, device=device)), all_pairs(x, T, threads=1)
    # The check rounds its sums in another order than the estimate.
    assert (coverage(estimate, exact.without_self) > 0.85).all()


def test_agreement_of_constants() -> None:
    assert agreement(np.array([1, 1]), np.array([2, 2])) == 1
    assert agreement(np.array([1, 1]), np.array([2, 3])) == 0
    assert agreement(np.array([1, 2]), np.array([2, 3])) == 1


def test_neighbour_quality_counts_ties_as_found() -> None:
    exact = np.float32([[0.9, 0.5, 0.5], [0.8, 0.7, 0.6]])
    found = np.float32([[0.9, 0.5, 0.5], [0.8, 0.7, 0.3]])
    quality = neighbour_quality(exact, found)
    assert quality["recall"] == pytest.approx(5 / 6)
    assert quality["knn_log_ratio"] == pytest.approx(np.log(1.4 / 0.8) / 4)


def test_errors_stay_small_where_rounding_is_all_there_is(device: str) -> None:
    x = reference.clustered_sphere(3000, 8, 60)
    p = reference.natural(3000)[None]
    found = estimate_pairs(x, [64.0], p, how=Estimate(k=10, near=0.9, share=0.08, threads=2, device=device))
    exact = all_pairs(x, [64.0], p, threads=2)
    energy = float((p * exact.without_self[:, 0]).sum())
    assert abs(found.pair_energies[0, 0] - energy) <= 3 * found.energy_errors[0, 0]
    assert found.energy_errors[0, 0] < 0.05 * energy


def test_a_check_takes_the_same_memory_for_any_number_of_samples() -> None:
    x = reference.random_sphere(40_000, 4)
    p = reference.natural(len(x))[None]
    job = CellJob(x, T, p, Estimate(k=3, queries=64, share=0.01, threads=1))
    tracemalloc.start()
    check = CellCheck(Host(job))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
    exact = all_pairs(x[:2000], T, k=3)
    some = np.arange(0, 2000, 90)
    np.testing.assert_allclose(exact_cosines(x[:2000], some, 3), exact.cosines[some], atol=1e-6)
    own = np.clip(x.astype(np.float64) @ x[check.rows[0]], -1, 1)
    own[check.rows[0]] = -2
    np.testing.assert_allclose(check.cosines[0], -np.sort(-own)[:3], atol=1e-6)
    kernel = np.exp(-2 * T[1] * (1 - own)) * (own > -2)
    np.testing.assert_allclose(check.exact[0, 1, 0], kernel.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("k", "schemes", "threads", "tile"), [(0, 8, 1, 1024), (10, 3, 2, 256), (0, 1, 1, 64), (200, 1, 2, 128)]
)
def test_memory_is_as_planned(k: int, schemes: int, threads: int, tile: int) -> None:
    x = np.repeat(reference.clustered_sphere(1500, 16, 40), [6] * 500 + [2] * 1000, axis=0)
    p = np.stack([reference.probabilities(np.random.default_rng(m).random(len(x))) for m in range(schemes)])
    t = [2.0, 4.0, 40.0]
    estimate_pairs(x[:300], t, how=Estimate(k=3, near=0.9))  # what is imported or set up once does not count
    tracemalloc.start()
    estimate_pairs(x, t, p, how=Estimate(k=k, near=0.9, tile=tile, threads=threads))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planned = estimate_bytes(*x.shape, k, schemes, 3, threads, tile)
    assert planned / 4 < peak < planned
