"""What weights do with suspect images and with a list of samples to leave out."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.tables.density_table import read_density
from kdbias.weighting.hygiene import held
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.stage import weights

BAD = [170, 171, 185, 190]  # in the two rarest classes, which every scheme draws more often
UNAIMED = [name for name in SCHEMES if name != "matched"]


@pytest.fixture(autouse=True)
def _quiet():
    with progress.quiet():
        yield


def mark(density, words: dict[int, str]) -> None:
    """Add the column ``suspect`` to a density table."""
    file = density / "density.parquet"
    table = pq.read_table(file)
    values = [words.get(i) for i in range(table.num_rows)]
    table = table.append_column("suspect", pa.array(values, pa.large_string()))
    pq.write_table(table, file)


@pytest.fixture
def marked(long_tailed):
    mark(long_tailed.density, {170: "blank", 171: "dark label", 185: "blank", 190: "tiny", 3: "isolated"})
    return long_tailed


def made(data, tmp_path, name="w", **options) -> np.ndarray:
    weights(data.density, tmp_path / f"{name}.parquet", **options)
    return pd.read_parquet(tmp_path / f"{name}.parquet").weight.to_numpy()


@pytest.mark.parametrize("method", UNAIMED)
def test_a_suspect_image_is_never_drawn_more_than_once(marked, tmp_path, method):
    free = made(marked, tmp_path, "free", method=method, suspects="keep")
    capped = made(marked, tmp_path, "capped", method=method)
    assert capped.mean() == pytest.approx(1)
    assert capped[BAD].max() <= 1 + 1e-9
    others = np.setdiff1d(np.arange(195), BAD)
    over = free[BAD] > 1
    if not over.any():
        np.testing.assert_array_equal(free, capped)
        return
    assert capped[BAD][over] == pytest.approx(1)
    drawn = others[free[others] > 0]
    ratio = capped[drawn] / free[drawn]
    if method in ("inverse-density", "class-balanced", "effective-number", "hard", "knn-distance"):
        assert ratio == pytest.approx(ratio[0])  # what the others get is shared as before
        assert ratio[0] > 1


def test_the_default_says_so_and_can_be_turned_off(marked, tmp_path, capsys):
    result = weights(marked.density, tmp_path / "a.parquet", method="inverse-density", t=3)
    line = (
        "4 suspect images (2 blank, 1 dark, 1 tiny): drawn once an epoch at most; --suspects keep or exclude"
    )
    assert line in result.summary()
    with pytest.raises(KdbiasError, match="suspects: None -> 'keep'"):
        weights(marked.density, tmp_path / "a.parquet", method="inverse-density", t=3, suspects="keep")
    kept = weights(marked.density, tmp_path / "b.parquet", method="inverse-density", t=3, suspects="keep")
    assert "suspect" not in kept.summary()
    rho = marked.kernel.mean(axis=1)
    assert made(marked, tmp_path, "b", method="inverse-density", t=3, suspects="keep") == pytest.approx(
        (1 / rho) / (1 / rho).mean()
    )


@pytest.mark.parametrize("method", ["equilibrium", "matched"])
def test_the_certificate_is_of_what_was_written(marked, tmp_path, method):
    more = {"towards": "balanced:camera", "stop": "floor"} if method == "matched" else {}
    options = {"method": method, "t": 3, "min_ess": 0.5, **more}
    free = weights(marked.density, tmp_path / "free.parquet", suspects="keep", **options)
    result = weights(marked.density, tmp_path / "w.parquet", **options)
    p = pd.read_parquet(tmp_path / "w.parquet").weight.to_numpy() / 195
    assert p[BAD].max() * 195 <= 1 + 1e-9
    assert 1 / (p @ p) / 195 >= 0.5 - 1e-9
    if method == "equilibrium":
        assert result.solver["energy"] == pytest.approx(p @ marked.kernel @ p, rel=1e-5)
    lowest = free.solver["energy"] - free.solver["gap"]
    assert result.solver["energy"] - result.solver["gap"] <= lowest + 1e-9  # nothing can be below
    assert result.solver["energy"] >= free.solver["energy"] - free.solver["gap"]
    if result.solver["energy"] > free.solver["energy"]:
        assert "suspect images were capped" in result.solver["reason"]
        assert not result.solver["certified"]


def test_a_clip_and_a_floor_hold_beside_the_cap(marked, tmp_path):
    w = made(marked, tmp_path, method="class-balanced", clip=4.0, min_ess=0.6)
    assert w[BAD].max() <= 1 + 1e-9
    assert w.max() <= 4 + 1e-9
    assert w.sum() ** 2 / (w @ w) / 195 >= 0.6 - 1e-9


def test_held_is_the_nearest_to_the_floor_that_limits_allow():
    p, limits = np.array([0.7, 0.1, 0.1, 0.1]), np.array([1.0, 0.05, 1.0, 1.0])
    scaled = held(p, limits, None)
    assert scaled == pytest.approx([0.7 * 0.95 / 0.9, 0.05, 0.1 * 0.95 / 0.9, 0.1 * 0.95 / 0.9])
    floored = held(p, limits, 0.7)
    assert 1 / (floored @ floored) / 4 == pytest.approx(0.7)
    assert floored[1] == pytest.approx(0.05)
    assert floored.sum() == pytest.approx(1)
    assert held(p, limits, 1.0) == pytest.approx([0.95 / 3, 0.05, 0.95 / 3, 0.95 / 3])


def test_more_than_a_tenth_of_suspects_is_what_the_data_are_like(long_tailed, tmp_path):
    mark(long_tailed.density, {i: "dark" for i in range(160, 195)})
    plain = made(long_tailed, tmp_path, "keep", method="class-balanced", suspects="keep")
    result = weights(long_tailed.density, tmp_path / "auto.parquet", method="class-balanced")
    np.testing.assert_array_equal(pd.read_parquet(tmp_path / "auto.parquet").weight, plain)
    assert "35 suspect images (35 dark) of 195: so many are what the data are like" in result.summary()
    assert made(long_tailed, tmp_path, "c", method="class-balanced", suspects="cap")[160:].max() <= 1 + 1e-9


@pytest.mark.parametrize("method", UNAIMED)
def test_what_is_left_out_has_weight_0_and_the_rest_are_weighed_without_it(marked, measure, tmp_path, method):
    rest = np.setdiff1d(np.arange(195), BAD)
    labels = [marked.labels[i] for i in rest]
    alone = measure(marked.x[rest], labels, name="rest")
    expected = made(alone, tmp_path, "rest", method=method)
    found = made(marked, tmp_path, "w", method=method, suspects="exclude")
    assert (found[BAD] == 0).all()
    assert found.mean() == pytest.approx(1)
    tolerance = (
        {"rtol": 0.02, "atol": 0.02} if method in ("equilibrium", "cluster-balanced") else {"rtol": 1e-4}
    )
    np.testing.assert_allclose(found[rest] * len(rest) / 195, expected, **tolerance)


def test_a_cap_is_of_the_weights_that_are_written(marked, tmp_path):
    pd.DataFrame({"sample_id": [f"s{i:04d}" for i in range(100)]}).to_csv(tmp_path / "list.csv", index=False)
    w = made(marked, tmp_path, method="equilibrium", cap=3.0, exclude=tmp_path / "list.csv")
    assert w.max() <= 3.0 * (1 + 1e-9)
    with pytest.raises(KdbiasError, match=r"195 draws, 2\.053 each"):
        made(marked, tmp_path, "x", method="equilibrium", cap=2.0, exclude=tmp_path / "list.csv")


def test_suspects_that_a_list_leaves_out_are_not_said_to_be_drawn(marked, tmp_path):
    file = tmp_path / "list.csv"
    for rows, said in [([170, 171, 185], "1 suspect image (1 tiny): drawn once"), (BAD, None)]:
        pd.DataFrame({"sample_id": [f"s{i:04d}" for i in rows]}).to_csv(file, index=False)
        lines = weights(marked.density, tmp_path / f"{len(rows)}.parquet", exclude=file).facts["suspects"]
        assert lines[0].startswith(f"{len(rows)} samples of ")
        assert [line.partition(" an epoch")[0] for line in lines[1:]] == ([said] if said else [])


def test_copies_of_what_is_left_out_stay(measure, tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 4))
    x[[4, 7]] = x[2]
    data = measure(x)
    pd.DataFrame({"sample_id": ["s0002", "s0009"]}).to_parquet(tmp_path / "list.parquet")
    w = made(data, tmp_path, method="inverse-density", t=3, exclude=tmp_path / "list.parquet")
    assert w[[2, 9]].tolist() == [0, 0]
    assert w[4] == pytest.approx(w[7])  # they share one sample's weight
    rows = [0, 1, 3, 4, 5, 6, 8, 10, 11]
    rho = data.kernel[np.ix_(rows, rows)].mean(axis=1)
    expected = 1 / rho / (1 / rho).sum() * 12
    expected[3] /= 2
    assert w[rows] == pytest.approx(expected, rel=1e-5)
    assert read_density(data.density).only(np.array([3, 4, 7])).first_equal.tolist() == [0, 1, 1]


def test_a_balanced_target_keeps_its_shares(marked, tmp_path):
    file = tmp_path / "list.csv"
    pd.DataFrame({"sample_id": [f"s{i:04d}" for i in range(0, 120, 2)]}).to_csv(file, index=False)
    result = weights(
        marked.density,
        tmp_path / "w.parquet",
        towards="balanced:camera",
        stop="floor",
        min_ess=0.1,
        exclude=file,
    )
    assert result.excluded == 60
    even = pd.DataFrame({"sample_id": [f"s{i:04d}" for i in range(0, 195, 2)]})  # all of one camera
    even.to_csv(file, index=False)
    with pytest.raises(
        KdbiasError, match=r"no sample of camera 'right' is left, of which the target has 50\.0%"
    ):
        weights(marked.density, tmp_path / "x.parquet", towards="balanced:camera", exclude=file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("exclude,sample_id\ntrue,nobody\n", r"1 of the 1 ids .*'nobody'"),
        ("exclude,sample_id\nfalse,s0001\n,s0002\n", "leaves nothing out: none of its 2 rows"),
        ("exclude,sample_id\nmaybe,s0001\n", "'exclude' says 'maybe'; write true or false"),
        ("id\ns0001\n", "no column 'sample_id'"),
        ("exclude,sample_id\ntrue,s0001\ntrue,s0002\n,s0001\n", "both true and false of 's0001'; keep one"),
    ],
)
def test_a_list_that_says_nothing_clear_is_refused(marked, tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(KdbiasError, match=message):
        weights(marked.density, tmp_path / "w.parquet", exclude=tmp_path / "list.csv")
    assert not (tmp_path / "w.parquet").exists()


def test_a_folder_is_no_list(marked, tmp_path):
    with pytest.raises(KdbiasError, match=f"is a folder; name a list, as kdbias suspects {marked.density}"):
        weights(marked.density, tmp_path / "w.parquet", exclude=marked.density)


def test_an_edited_list_is_another_input(marked, tmp_path):
    file, out = tmp_path / "list.csv", tmp_path / "w.parquet"
    file.write_text("exclude,sample_id\nYes,s0001\nno,s0002\n")
    assert weights(marked.density, out, method="natural", exclude=file).excluded == 1
    assert weights(marked.density, out, method="natural", exclude=file).state == "finished"
    file.write_text("exclude,sample_id\nYes,s0001\n1,s0002\n")
    with pytest.raises(KdbiasError, match="input exclude is another one"):
        weights(marked.density, out, method="natural", exclude=file)
