"""The search for the best re-weighting where a device takes the products."""

import numpy as np
import pytest

from kdbias.measurement.best import Resources, not_searched, search_best
from kdbias.sphere import triton_tiles
from kdbias.sphere.duplicates import first_with_same_vector
from tests import reference


def test_a_search_on_a_device_finds_what_one_on_the_cpu_finds(
    interpreter: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(triton_tiles, "SHAPES", dict.fromkeys((False, True), (64, 4, 3)))
    x = reference.clustered_sphere(120, 8, 6)
    x[5] = x[4]
    first = first_with_same_vector(x)
    unknown = not_searched([{"t": t, "uniformity": -1.0, "reason": None} for t in (2.0, 4.0)])
    here = search_best(unknown, [2.0, 4.0], x, first, Resources(1 << 30, 1))
    assert "t=4\n" in capsys.readouterr().err
    device = Resources(1, 1, "cpu:0")
    there = search_best(unknown, [2.0, 4.0], x, first, device)
    assert "searching the best re-weighting at t=4 on cpu:0\n" in capsys.readouterr().err
    for host, found in zip(here, there, strict=True):
        assert found["reason"] is None
        assert found["natural_energy"] == pytest.approx(host["natural_energy"], rel=2e-6)
        assert abs(found["energy"] - host["energy"]) <= max(found["gap"], host["gap"])
        assert 0 <= found["gap"] <= 9e-3 * (found["natural_energy"] - found["energy"])
    assert device.seconds(240, 8) > 0


def test_a_kernel_that_the_memory_does_not_hold_is_needed_on_the_cpu_alone(interpreter: None) -> None:
    assert "needs 9.4 GiB" in (Resources(1 << 30, 1).no_room(100_000) or "")
    assert Resources(1 << 30, 1, "cpu:0").no_room(100_000) is None


def test_a_device_that_cannot_take_products_leaves_them_to_the_cpu() -> None:
    resources = Resources(1 << 30, 1, "cuda:0")
    if resources.on_device:
        pytest.skip("there is a GPU that can")
    x = reference.clustered_sphere(20, 4, 2)
    np.testing.assert_allclose(
        resources.kernel(x, 2.0).row_sums, reference.kernel(x, 2.0).sum(axis=1), rtol=1e-6
    )
