"""The estimate on a torch device: what the host gives, to float32's rounding, whatever memory there is."""

from dataclasses import replace

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.cells.cells import Rows, build_cells
from kdbias.sphere.cells.check import CellCheck
from kdbias.sphere.cells.estimate import CellEstimate, estimate_pairs
from kdbias.sphere.cells.host import Host
from kdbias.sphere.cells.job import CellJob, Estimate
from kdbias.sphere.half_terms import HalfTerms
from tests import reference

torch = pytest.importorskip("torch")
device = pytest.importorskip("kdbias.sphere.cells.device")
T = [2.0, 4.0, 5.0, 40.0]
HOW = Estimate(k=10, near=0.9, share=0.08, threads=1)


@pytest.fixture(params=["cpu:0", "cuda:0"])
def there(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda:0" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(params=["float16 rows", "float32 rows"])
def data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and two weightings; their cells are the same wherever they are asked for."""
    x = reference.clustered_sphere(1500, 24, 30)
    if request.param == "float16 rows":
        x = x.astype(np.float16).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    weights = reference.probabilities(np.random.default_rng(1).random(len(x)) ** 2)
    cells = build_cells(x, threads=1)
    monkeypatch.setattr("kdbias.sphere.cells.estimate.build_cells", lambda *a, **o: cells)
    return x, np.stack([reference.natural(len(x)), weights])


def estimated(data: tuple[np.ndarray, np.ndarray], where: str, tile: int = 256, **how) -> CellEstimate:
    return estimate_pairs(data[0], T, data[1], replace(HOW, device=where, tile=tile, **how))


def require_same(found: CellEstimate, host: CellEstimate) -> None:
    """Up to rounding; ids up to others at the same cosine."""
    np.testing.assert_allclose(found.pairs.potentials[:, :3], host.pairs.potentials[:, :3], rtol=3e-6)
    np.testing.assert_allclose(found.pairs.potentials, host.pairs.potentials, rtol=2e-5)
    np.testing.assert_allclose(found.pair_energies, host.pair_energies, rtol=3e-6)
    np.testing.assert_allclose(found.pairs.cosines, host.pairs.cosines, atol=1e-6)
    other = found.pairs.ids != host.pairs.ids
    assert other.mean() < 1e-3
    np.testing.assert_array_equal(found.pairs.counts, host.pairs.counts)
    np.testing.assert_allclose(found.half_widths[:, :3], host.half_widths[:, :3], rtol=1e-2)
    assert found.quality["pairs_share"] == host.quality["pairs_share"]
    for name in ("recall", "probes", "rms_relative_error", "coverage"):
        np.testing.assert_allclose(found.quality[name], host.quality[name], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("tile", [64, 1024])
def test_the_same_as_on_the_host(data, there: str, tile: int) -> None:
    require_same(estimated(data, there, tile), estimated(data, "cpu"))


def test_as_many_pairs_are_chosen_as_on_the_host(data, there: str) -> None:
    found, host = (estimated(data, where, share=None, tolerance=0.01) for where in (there, "cpu"))
    require_same(found, host)


def test_the_same_bits_again(data, there: str) -> None:
    one, other = (estimated(data, there) for _ in range(2))
    np.testing.assert_array_equal(one.pairs.potentials, other.pairs.potentials)
    np.testing.assert_array_equal(one.pairs.ids, other.pairs.ids)
    np.testing.assert_array_equal(one.half_widths, other.half_widths)


def test_a_device_out_of_memory_gets_smaller_tiles(
    data, there: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cosines, failed = HalfTerms.cosines, []

    def scarce(self, rows, others):
        if len(rows) * len(others) > 150_000:
            failed.append(len(rows))
            raise torch.cuda.OutOfMemoryError
        return cosines(self, rows, others)

    host = estimated(data, "cpu")
    monkeypatch.setattr(HalfTerms, "cosines", scarce)
    found = estimated(data, there, 1024)
    assert failed
    assert "out of memory: starting over with tile 512" in capsys.readouterr().err
    require_same(found, host)


def test_a_device_without_memory_is_refused(data, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(HalfTerms, "of", none)
    with pytest.raises(KdbiasError, match="too little free memory"):
        estimated(data, there)


def test_rows_computed_exactly_are_those_of_the_host(data, there: str) -> None:
    x, p = data
    cells = build_cells(x, threads=1)
    host = CellCheck(Host(CellJob(x, T, p, HOW, cells)))
    rows, how = device.DeviceRows(x, there), replace(HOW, device=there, tile=256)
    found = CellCheck(device.Device(CellJob(rows, T, p, how, cells)))
    np.testing.assert_allclose(found.exact[:, :3], host.exact[:, :3], rtol=3e-6)
    np.testing.assert_allclose(found.near[:, :, :3], host.near[:, :, :3], rtol=3e-6, atol=1e-9)
    np.testing.assert_allclose(found.cosines, host.cosines, atol=1e-6)
    np.testing.assert_allclose(found.features[:, :, :3], host.features[:, :, :3], rtol=2e-3, atol=1e-6)
    np.testing.assert_array_equal(found.cells, host.cells)


def test_sums_of_cells_are_those_of_the_host(data, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbias.sphere.cells.device_rows._ROWS", 128)
    x, p = data
    host, found = Rows(x), device.DeviceRows(x, there)
    codes, some = np.random.default_rng(3).integers(-1, 20, len(x)), np.arange(5, 900, 3)
    for arguments in ((codes, 21), (codes[some], 21, some), (codes, 21, None, p[1])):
        np.testing.assert_allclose(found.sums(*arguments), host.sums(*arguments), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.moment(), host.moment(), rtol=1e-5, atol=1e-5)


def test_cells_are_nearly_those_of_the_host(data, there: str) -> None:
    x, shares = data[0], []
    host = build_cells(x, threads=1)
    found = build_cells(device.DeviceRows(x, there), progress=shares.append)
    assert found.count == pytest.approx(host.count, abs=2)
    assert sum(shares) == pytest.approx(1)
    means = np.stack([x[found.members(c)].mean(axis=0) for c in range(found.count)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert ((x @ means.T).argmax(axis=1) == found.cell).mean() > 0.97  # means of k-means that has ended
    fits = []
    for cells in (host, found):
        sums = Rows(x).sums(cells.cell, cells.count)
        fits.append(np.linalg.norm(sums, axis=1).sum() / len(x))
    assert fits[1] > fits[0] - 2e-3
    again = build_cells(device.DeviceRows(x, there))
    np.testing.assert_array_equal(again.cell, found.cell)
