"""Far sums from cells' moments: close to the exact ones, and corrected by rows that are known."""

import numpy as np
import pytest

from kdbias.sphere.cells.cells import build_cells
from kdbias.sphere.cells.far import CellMoments, Correction, FarModel, pooled_spread
from kdbias.sphere.workers import Workspace
from tests import reference

T = [1.0, 4.0, 40.0]


@pytest.fixture(scope="module")
def data():
    x = reference.clustered_sphere(1500, 16, 30)
    cells = build_cells(x, 60, threads=1)
    return x, cells, CellMoments.of(x, cells)


def test_moments_of_cells(data) -> None:
    x, cells, natural = data
    w = np.random.default_rng(0).random(1500) ** 3
    w[cells.members(7)] = 0
    weighted = CellMoments.of(x, cells, w)
    for c in (0, 7, 59):
        members = cells.members(c)
        np.testing.assert_allclose(natural.means[c], x[members].mean(axis=0), atol=1e-6)
        residuals = x[members] - x[members].mean(axis=0)
        assert natural.spread[c] == pytest.approx((residuals**2).sum(axis=1).mean(), abs=1e-5)
        assert (natural.mass[c], natural.squares[c]) == (len(members), len(members))
        assert weighted.mass[c] == pytest.approx(w[members].sum(), rel=1e-6)
        assert weighted.squares[c] == pytest.approx((w[members] ** 2).sum(), rel=1e-6)
        if c != 7:
            np.testing.assert_allclose(
                weighted.means[c], w[members] @ x[members] / w[members].sum(), atol=1e-6
            )
    np.testing.assert_allclose(weighted.means[7], natural.means[7], atol=1e-6)


def test_spread_is_that_within_cells(data) -> None:
    x, cells, natural = data
    residuals = (x - natural.means[cells.cell]).astype(np.float64)
    np.testing.assert_allclose(pooled_spread(x, natural), residuals.T @ residuals / 1500, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_far_sums_are_close_to_the_exact_ones(data, weighted: bool) -> None:
    x, cells, natural = data
    w = np.random.default_rng(1).random(1500) * 2 if weighted else np.ones(1500)
    moments = CellMoments.of(x, cells, w) if weighted else natural
    model = FarModel(natural, [moments], pooled_spread(x, natural), T)
    rows = np.arange(0, 1500, 10)
    block = model.block(x[rows], cells.cell[rows][:, None], [np.inf, 1e-4], Workspace())
    assert (block.near[0].sum(axis=1) == 1).all()
    assert (block.near[1].sum(axis=1) > 1).any()
    for near, features in zip(block.near, block.features, strict=True):
        seen = ~near[:, cells.cell]
        for j, t in enumerate(T[:2]):
            far = (reference.kernel(x, t)[rows] * seen) @ w
            off = features[0, j, 0] / far - 1
            assert np.sqrt((off**2).mean()) < (0.004, 0.08)[j]


def test_all_cells_near_leave_nothing(data) -> None:
    x, cells, natural = data
    model = FarModel(natural, [natural], pooled_spread(x, natural), T)
    block = model.block(x[:50], cells.cell[:50, None], [-np.inf], Workspace())
    assert block.near[0].all()
    assert (block.features[0, 0, :, 0] == 0).all()
    assert (block.errors == 0).all()


def test_a_correction_is_exact_where_the_law_holds() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((2, 3, 3, 200)) + 1
    far = features[:, :, 0] * (0.9 + 0.1 * features[:, :, 1] - 0.05 * features[:, :, 2])
    fit = Correction.fit(features[..., :50], far[..., :50], np.ones((2, 3, 50)))
    inside = (
        (features >= features[..., :50].min(axis=-1, keepdims=True))
        & (features <= features[..., :50].max(axis=-1, keepdims=True))
    )[:, :, 1:].all(axis=2)
    np.testing.assert_allclose(fit.far(features)[inside], far[inside], rtol=1e-9)
    outside = features.copy()
    outside[:, :, 1] = 50.0  # counts as the largest that was fitted
    largest = features.copy()
    largest[:, :, 1] = features[..., 1, :50].max(axis=-1, keepdims=True)
    np.testing.assert_allclose(fit.far(outside), fit.far(largest), rtol=1e-12)


def test_corrections_without_anything_far_or_varying() -> None:
    features = np.zeros((1, 1, 3, 5))
    assert (Correction.fit(features, np.zeros((1, 1, 5)), np.ones((1, 1, 5))).far(features) == 0).all()
    features[:, :, 0] = 2.0
    fit = Correction.fit(features, np.full((1, 1, 5), 3.0), np.ones((1, 1, 5)))
    np.testing.assert_allclose(fit.far(features), 3.0)


def test_identical_samples_have_no_spread() -> None:
    x = np.repeat(np.eye(4, dtype=np.float32)[:2], 20, axis=0)
    cells = build_cells(x, 4, threads=1)
    natural = CellMoments.of(x, cells)
    block = FarModel(natural, [natural], pooled_spread(x, natural), [2.0]).block(
        x[:1], cells.cell[:1, None], [np.inf], Workspace()
    )
    np.testing.assert_allclose(block.features[0, 0, 0, 0], 20 * np.exp(-4), rtol=1e-5)
    assert np.isfinite(block.features).all()
