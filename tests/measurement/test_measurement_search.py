"""uniformity() past exact search, and its estimators of the log density."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.measurement import passes, search_quality
from kdbias.measurement.density import intrinsic_dimension, log_density
from kdbias.measurement.passes import PassPlan, duration
from kdbias.measurement.settings import UniformitySettings
from kdbias.measurement.stage import uniformity
from kdbias.measurement.summary import summary_table
from kdbias.sphere.cells import job
from kdbias.sphere.equilibrium.solve import solve
from kdbias.tables.density_table import read_density
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.weight_manifest import write_manifest
from tests import reference

N, D = 1500, 16
OPTIONS = {"k": 8, "t": "4,8", "rectification": "none", "device": "cpu"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    x = reference.clustered_sphere(N, D, 40)
    ids = pa.array([f"s{i}" for i in range(N)])
    return write_embedding_table(tmp_path_factory.mktemp("emb") / "emb", ids, x, dtype="float32")


@pytest.fixture(scope="module", params=["ivf", "hnsw"])
def measured(request: pytest.FixtureRequest, table, tmp_path_factory: pytest.TempPathFactory):
    if request.param == "hnsw":
        pytest.importorskip("faiss")
    out = tmp_path_factory.mktemp(request.param) / "out"
    return uniformity(table.path, out, search=request.param, **OPTIONS)


def test_numbers_with_their_errors(table, measured) -> None:
    x = table.vectors()
    for entry in measured.document["schemes"][0]["bandwidths"]:
        exact = reference.uniformity(x, entry["t"])
        assert entry["standard_error"] > 0
        assert abs(entry["uniformity"] - exact) < 4 * entry["standard_error"] + 1e-5
        low, high = entry["interval"]
        assert low < entry["uniformity"] < high
        assert entry["energy"] == pytest.approx(reference.energy(x, entry["t"]), rel=0.02)


def test_quality_is_stored_and_shown(measured) -> None:
    search = measured.document["search"]
    assert search["kind"] in ("ivf", "hnsw")
    assert 0.7 < search["recall"] <= 1
    assert search["knn_spearman"] > 0.95
    assert json.loads(measured.uniformity_path.read_text())["search"] == search
    text = summary_table(measured.document)
    assert "+-" in text
    assert "computed exactly" in text


def test_intervals_of_the_density_table(table, measured) -> None:
    density = read_density(measured.out)
    intervals = pq.read_table(measured.out / "intervals.parquet")
    assert intervals.column("sample_id").to_pylist() == density.ids.to_pylist()
    for t in density.bandwidths:
        off = np.abs(density.potential(t) - reference.potentials(table.vectors(), t))
        assert (off <= intervals.column(f"half_width_t{t:g}").to_numpy()).mean() > 0.9


def test_neighbours_are_close_to_the_exact_ones(table, measured) -> None:
    distances = read_density(measured.out).numbers("knn_distance")
    exact = np.sqrt(2 - 2 * reference.neighbors(table.vectors(), 8)[1][:, -1])
    assert (distances >= exact - 1e-5).all()
    assert np.median(distances / exact) < 1.01


def test_schemes_are_added_by_the_same_search(table, measured, tmp_path: Path) -> None:
    w = np.random.default_rng(0).random(N)
    manifest = tmp_path / "w.parquet"
    write_manifest(manifest, table.ids(), None, {}, np.zeros(N), w, {})
    search = measured.document["search"]
    options = {**OPTIONS, "search": search["kind"], "weights": [manifest]}
    more = uniformity(table.path, measured.out, **options).document
    assert [s["name"] for s in more["schemes"]] == ["natural", "w"]
    for entry in more["schemes"][1]["bandwidths"]:
        exact = reference.uniformity(table.vectors(), entry["t"], reference.probabilities(w))
        assert abs(entry["uniformity"] - exact) < 4 * entry["standard_error"] + 1e-5
    # The quality of each scheme is kept, in the schemes' order.
    per_scheme = ("rms_relative_error", "largest_relative_error", "spearman")
    for name in per_scheme:
        assert more["search"][name][0] == search[name][0]
        assert len(more["search"][name]) == 2
    assert more["search"].keys() == search.keys()
    write_manifest(manifest, table.ids(), None, {}, np.zeros(N), w**4, {})
    again = uniformity(table.path, measured.out, **options).document["search"]
    assert again["rms_relative_error"][0] == search["rms_relative_error"][0]
    assert again["rms_relative_error"][1] != more["search"]["rms_relative_error"][1]
    assert len(again["rms_relative_error"]) == 2


def test_rectification_of_estimates_rests_on_exact_energies(
    table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SHARES", (0.05,))  # so few samples would all be looked at
    options = {**OPTIONS, "rectification": "all", "search": "ivf"}
    document = uniformity(table.path, tmp_path / "out", **options).document
    for best, natural in zip(document["best"], document["schemes"][0]["bandwidths"], strict=True):
        exact = reference.energy(table.vectors(), best["t"])
        assert best["natural_energy"] == pytest.approx(exact, rel=1e-6)
        assert natural["energy"] != pytest.approx(exact, rel=1e-6)
        assert natural["rectification"] == 0


def test_a_search_that_is_too_coarse_is_refused(table, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_quality, "LEAST_KNN_SPEARMAN", 1.01)
    with pytest.raises(KdbiasError, match="too coarse"):
        uniformity(table.path, tmp_path / "out", search="ivf", **OPTIONS)


def test_a_refused_search_leaves_the_measurement_it_was_to_replace(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = uniformity(table.path, tmp_path / "out", **OPTIONS)
    monkeypatch.setattr(search_quality, "LEAST_KNN_SPEARMAN", 1.01)
    with pytest.raises(KdbiasError, match="too coarse"):
        uniformity(table.path, tmp_path / "out", search="ivf", overwrite=True, **OPTIONS)
    again = uniformity(table.path, tmp_path / "out", **OPTIONS)
    assert (again.state, again.document) == ("finished", first.document)


def test_cells_stay_within_their_memory_or_are_refused(table, tmp_path, capsys) -> None:
    options = {**OPTIONS, "search": "ivf", "threads": 1}
    uniformity(table.path, tmp_path / "out", memory="40MiB", **options)
    assert "tile 512 instead of 1024, to stay within --memory" in capsys.readouterr().err
    with pytest.raises(KdbiasError, match=r"a unit of an estimate with k=8 need .* more memory"):
        uniformity(table.path, tmp_path / "less", memory="8MiB", **options)


def test_a_graph_that_does_not_fit_is_refused_before_anything_is_computed(table, tmp_path) -> None:
    pytest.importorskip("faiss")
    options = {**OPTIONS, "search": "hnsw", "k": N - 1, "threads": 1}  # results of 12 k bytes a sample
    with pytest.raises(KdbiasError, match=r"1,500 samples in a graph with k=1499 need"):
        uniformity(table.path, tmp_path / "out", memory="40MiB", **options)


@pytest.mark.parametrize(("rank", "refused"), [(0.98, True), (0.995, False)])
def test_ranks_of_potentials_at_the_chosen_bandwidth_must_be_right(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch, rank: float, refused: bool
) -> None:
    real = passes.estimate_pairs

    def estimate(*args, **options):
        found = real(*args, **options)
        return replace(found, quality={**found.quality, "spearman": [[rank, 0.5]]})

    monkeypatch.setattr(passes, "estimate_pairs", estimate)
    options = {**OPTIONS, "search": "ivf"}
    if not refused:
        assert uniformity(table.path, tmp_path / "out", **options).state == "new"
        return
    with pytest.raises(KdbiasError, match=r"rank correlation of potentials with exact ones 0.980 < 0.99"):
        uniformity(table.path, tmp_path / "out", **options)
    with pytest.raises(KdbiasError, match=r"0.500 < 0.99"):
        uniformity(table.path, tmp_path / "other", **{**options, "t": "8,4"})


def test_an_equilibrium_is_judged_by_its_errors_as_its_ranks_are_noise(table, tmp_path) -> None:
    p = solve(table.vectors(), 4.0, tolerance=1e-4).p
    manifest = tmp_path / "even.parquet"
    write_manifest(manifest, table.ids(), None, {}, np.zeros(N), p * N, {})
    options = {**OPTIONS, "search": "ivf", "weights": [manifest]}
    document = uniformity(table.path, tmp_path / "out", **options).document
    search, chosen = document["search"], 0
    assert search["spearman"][1][chosen] < search_quality.LEAST_SPEARMAN
    assert search["rms_relative_error"][1][chosen] < search_quality.LARGEST_SCHEME_ERROR
    exact = reference.energy(table.vectors(), 4.0, p)
    assert document["schemes"][1]["bandwidths"][chosen]["energy"] == pytest.approx(exact, rel=0.02)
    assert f"at least {min(search['spearman'][0]):.4f}" in summary_table(document)


@pytest.mark.parametrize("added_later", [False, True])
def test_a_scheme_whose_potentials_are_far_off_is_refused(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch, added_later: bool
) -> None:
    real = passes.estimate_pairs

    def estimate(x, bandwidths, p, **options):
        found = real(x, bandwidths, p, **options)
        errors = [[0.06, 0.001] if row.std() > 0 else [0.001, 0.001] for row in p]
        return replace(found, quality={**found.quality, "rms_relative_error": errors})

    manifest = tmp_path / "w.parquet"
    write_manifest(manifest, table.ids(), None, {}, np.zeros(N), np.arange(N) + 1.0, {})
    options = {**OPTIONS, "search": "ivf"}
    if added_later:
        uniformity(table.path, tmp_path / "out", **options)
    monkeypatch.setattr(passes, "estimate_pairs", estimate)
    with pytest.raises(KdbiasError, match=r"potentials of scheme 'w' are off by 6.0 % .*> 5 %; use --search"):
        uniformity(table.path, tmp_path / "out", weights=[manifest], **options)


def test_hnsw_only_warns(table, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(search_quality, "LEAST_KNN_SPEARMAN", 1.01)
    uniformity(table.path, tmp_path / "out", search="hnsw", **OPTIONS)
    assert "warning" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"search": "hnsw"}, {"search": "ivf", "block_rows": 1024}])
def test_graphs_and_units_of_estimates_run_on_the_cpu(table, tmp_path, options: dict) -> None:
    with pytest.raises(KdbiasError, match="CPU"):
        uniformity(table.path, tmp_path / "out", **{**OPTIONS, "device": "cuda", **options})


def test_an_estimate_is_computed_on_the_device_that_is_asked_for(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdbias.measurement.stage.process_device", lambda *_: "cpu:0")
    there = uniformity(table.path, tmp_path / "there", search="ivf", **{**OPTIONS, "device": "cuda"})
    assert "uniformity: device cpu:0, float32" in capsys.readouterr().err
    here = uniformity(table.path, tmp_path / "here", search="ivf", **{**OPTIONS, "device": "auto"})
    assert "uniformity: device cpu, float32" in capsys.readouterr().err
    for t in (4.0, 8.0):
        found, host = (read_density(result.out).potential(t) for result in (there, here))
        np.testing.assert_allclose(found, host, rtol=1e-5)
    monkeypatch.setattr("kdbias.sphere.cells.device.host_bytes", lambda *_: 5 << 30)
    with pytest.raises(KdbiasError, match="--memory"):
        uniformity(table.path, tmp_path / "large", search="ivf", **{**OPTIONS, "device": "cuda"})


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "best"},
        {"precision": "fp8"},
        {"precision": "bf16"},
        {"estimator": "knn", "exponent": -1.0},
        {"exponent": 2.0},
        {"estimator": "vmf", "exponent": 2.0},
    ],
)
def test_bad_options_are_refused(table, tmp_path, options: dict) -> None:
    with pytest.raises(KdbiasError):
        uniformity(table.path, tmp_path / "out", **OPTIONS, **options)
    assert not (tmp_path / "out").exists()


def test_long_runs_are_told_of_the_cheaper_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "seconds_estimate", lambda n, d, threads: 1e-9 * n * n)
    plan = PassPlan(UniformitySettings(threads=2), "cpu", Path("pass.npz"))
    assert "--search ivf" not in plan.announcement(100_000, 128)
    long = plan.announcement(10_000_000, 128)
    assert "27.8 h" in long
    assert "--search ivf: about" in long
    assert "all pairs" in long
    assert "2 threads" in long


def test_a_pass_on_a_gpu_says_first_how_long_it_should_take(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(passes, "all_pairs", lambda x, *_, device, **__: seen.append((len(x), device)))
    monkeypatch.setattr("kdbias.sphere.torch_pairs.how", lambda device, precision: "tiles of torch")
    exact = PassPlan(UniformitySettings(threads=2), "cuda:0", Path("pass.npz"))
    assert "device cuda:0, float32, 2 threads, tiles of torch" in (line := exact.announcement(50_000, 16))
    assert ", about 1 s" in line
    assert seen == [(8192, "cuda:0")] * 2
    cells = PassPlan(UniformitySettings(threads=2, search="ivf"), "cuda:0", Path("pass.npz"))
    assert "device cuda:0, float32, 2 threads, ivf, cells of the sphere" in cells.announcement(50_000, 16)
    assert len(seen) == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.1, "1 s"), (80, "80 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_estimators_without_searching_again(table, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    options = {**OPTIONS, "keep_neighbors": True}
    uniformity(table.path, out, **options)
    x = table.vectors()
    _, cosines = reference.neighbors(x, 8)
    monkeypatch.setattr(passes, "all_pairs", lambda *a, **o: pytest.fail("searched again"))

    potential = read_density(out).numbers("log_density")
    np.testing.assert_allclose(potential, np.log(reference.potentials(x, 4)), atol=1e-5)

    restated = uniformity(table.path, out, estimator="vmf", **options)
    assert restated.state == "restated"
    vmf = read_density(out).numbers("log_density")
    np.testing.assert_allclose(vmf, np.log(np.exp(8 * (cosines - 1)).mean(axis=1)), atol=1e-5)

    document = uniformity(table.path, out, estimator="knn", **options).document
    exponent = document["estimator"]["exponent"]
    assert exponent == document["intrinsic_dimension"]
    knn = read_density(out)
    np.testing.assert_allclose(
        knn.numbers("log_density"), -exponent * np.log(np.sqrt(2 - 2 * cosines[:, -1])), rtol=1e-4
    )
    assert knn.provenance["estimator"] == {"kind": "knn", "exponent": exponent}

    uniformity(table.path, out, estimator="knn", exponent=2.0, **options)
    np.testing.assert_allclose(
        read_density(out).numbers("log_density"), knn.numbers("log_density") * 2 / exponent, rtol=1e-6
    )
    assert uniformity(table.path, out, estimator="knn", **options).state == "finished"
    assert uniformity(table.path, out, **options).state == "finished"  # not asked for: stays as it is
    uniformity(table.path, out, estimator="potential", **options)
    np.testing.assert_allclose(read_density(out).numbers("log_density"), potential)


def test_vmf_needs_kept_neighbours(table, tmp_path) -> None:
    uniformity(table.path, tmp_path / "out", **OPTIONS)
    with pytest.raises(KdbiasError, match="--keep-neighbors"):
        uniformity(table.path, tmp_path / "out", estimator="vmf", **OPTIONS)


def test_knn_density_of_copies_is_finite() -> None:
    values = log_density(
        "knn",
        potential=np.ones(3),
        t=2.0,
        knn_distance=np.array([0.0, 0.1, 0.2]),
        cosines=None,
        exponent=3.0,
    )
    assert np.isfinite(values).all()
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize(
    ("dimension", "k", "error"), [(2, 5, 0.02), (2, 20, 0.02), (5, 8, 0.03), (10, 20, 0.1)]
)
def test_intrinsic_dimension_of_a_sphere(dimension: int, k: int, error: float) -> None:
    """Points on S^m inside 40 dimensions have intrinsic dimension m."""
    low = reference.random_sphere(3000, dimension + 1)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((40, dimension + 1)))[0]
    _, cosines = reference.neighbors(low @ basis.T, k)
    assert intrinsic_dimension(cosines.astype(np.float32)) == pytest.approx(dimension, rel=error)


def test_intrinsic_dimension_may_not_exist() -> None:
    assert intrinsic_dimension(np.ones((20, 8), dtype=np.float32)) is None  # copies
    assert intrinsic_dimension(np.full((20, 2), 0.5, dtype=np.float32)) is None
