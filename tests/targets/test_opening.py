"""Targets: what is named, what is refused, and the same numbers as the obvious sums."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kdbias
from kdbias.embedding.stage import embed
from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.sphere.equilibrium.two_sample import two_sample_test
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.targets.opening import open_target
from kdbias.targets.settings import Aiming, Named
from tests import reference


def kernel_of(x: np.ndarray, y: np.ndarray, a=None, b=None) -> np.ndarray:
    """(n, m) float64 mean kernel over the ladder, halved where the columns' values differ."""
    cosines = np.clip(reference.unit_rows(x) @ reference.unit_rows(y).T, -1, 1)
    kernel = np.mean([np.exp(-2 * t * (1 - cosines)) for t in LADDER], axis=0)
    return kernel if a is None else kernel * np.where(a[:, None] == b[None, :], 1, 0.5)


def table(folder, n=60, seed=0, name="x", d=6, **more) -> EmbeddingTable:
    x = reference.clustered_sphere(n, d, 4, 0.6, seed)
    groups = {"camera": [("a", "b", "c")[i % 3 if i < n // 2 else 0] for i in range(n)]}
    return write_embedding_table(
        folder, [f"{name}{i}" for i in range(n)], x, groups=groups, **{"dtype": "float32", **more}
    )


@pytest.fixture
def data(tmp_path):
    return table(tmp_path / "data")


@pytest.fixture
def other(tmp_path):
    return table(tmp_path / "other", 40, 1, "y")


def aim(towards, column=None) -> Aiming:
    return Aiming(towards=str(towards), with_column=column)


@pytest.mark.parametrize("text", ["balanced:", "@w.parquet", "ref@", "balanced:race@", ""])
def test_what_names_no_target_is_refused(text):
    with pytest.raises(KdbiasError, match="is no target"):
        Aiming(towards=text)


def test_names(tmp_path):
    assert Named.of("balanced:race@s.csv") == Named("balanced", "race", "s.csv")
    assert Named.of("ref@w.parquet") == Named("reference", "ref", "w.parquet")
    (tmp_path / "a@b").mkdir()
    assert Named.of(str(tmp_path / "a@b")) == Named("reference", str(tmp_path / "a@b"))
    assert Aiming(towards="balanced:race").record()["towards"] == "balanced:race"
    with pytest.raises(KdbiasError, match="--with race"):
        Aiming(with_column="race")


def test_a_reference_is_seen_as_the_textbook_has_it(data, other):
    x, y = data.vectors(), other.vectors()
    found = open_target(aim(other.path), data)
    target = found.of(x, LADDER, lambda p: pytest.fail("a reference needs no product"))
    assert target.mean == pytest.approx(kernel_of(x, y).mean(axis=1), rel=1e-5)
    assert found.size == 40
    assert found.inputs == {"towards": other.fingerprint}
    assert any("40 samples is small" in note for note in found.notes)


def test_a_reference_with_weights_of_its_own(data, other, tmp_path):
    weights = np.arange(40.0)
    file = tmp_path / "w.parquet"
    pq.write_table(pa.table({"sample_id": other.ids(), "weight": weights}).take(np.arange(40)[::-1]), file)
    found = open_target(aim(f"{other.path}@{file}"), data)
    target = found.of(data.vectors(), LADDER, lambda p: p)
    q = weights / weights.sum()
    assert target.mean == pytest.approx(kernel_of(data.vectors(), other.vectors()) @ q, rel=1e-5)
    assert target.size == pytest.approx(1 / (q @ q))
    shares = found.shares("camera")
    cameras = np.array(other.column("camera").to_pylist())
    assert shares == pytest.approx({c: q[cameras == c].sum() for c in "abc"})
    test = found.test(data.vectors(), LADDER)
    assert test is not None
    asked = two_sample_test(data.vectors(), other.vectors(), LADDER, masses=q)
    assert (test.p_value, test.statistic) == pytest.approx((asked.p_value, asked.statistic), rel=1e-4)


def test_a_column_is_compared_together_with_the_vectors(data, other):
    x, y = data.vectors(), other.vectors()
    found = open_target(aim(other.path, "camera"), data)
    ours, theirs = (np.array(t.column("camera").to_pylist()) for t in (data, other))
    groups = Groups.of(np.where(np.arange(60) == 7, 3, np.arange(60)), 60)  # as if 7 copied 3
    kept = groups.first
    target = found.of(x[kept], LADDER, lambda p: p, groups)
    kxy, kyy = kernel_of(x[kept], y, ours[kept], theirs), kernel_of(y, y, theirs, theirs)
    assert target.mean == pytest.approx(kxy.mean(axis=1), rel=1e-5)
    assert target.constant == pytest.approx(kyy.mean(), rel=1e-5)
    p = np.random.default_rng(0).dirichlet(np.ones(59))
    kernel = TiledKernel(x[kept], LADDER, tile=16, codes=found.codes[0][kept])
    assert kernel.apply(p, exact=True) == pytest.approx(
        kernel_of(x[kept], x[kept], ours[kept], ours[kept]) @ p, rel=1e-5
    )
    for kept_as in (None, np.float16):
        again = TiledKernel(x[kept], LADDER, kept=kept_as, tile=16, codes=found.codes[0][kept])
        assert again.apply(p, exact=True) == pytest.approx(kernel.apply(p, exact=True), rel=1e-6)


def test_a_column_that_the_vectors_do_not_show_is_found_with_it_alone(tmp_path):
    x, y = reference.random_sphere(400, 6, 0), reference.random_sphere(300, 6, 1)
    one = write_embedding_table(
        tmp_path / "a", [f"a{i}" for i in range(400)], x, groups={"camera": ["l"] * 340 + ["r"] * 60}
    )
    two = write_embedding_table(
        tmp_path / "b", [f"b{i}" for i in range(300)], y, groups={"camera": ["l", "r"] * 150}
    )
    without = open_target(aim(two.path), one).test(one.vectors(), LADDER)
    together = open_target(aim(two.path, "camera"), one).test(one.vectors(), LADDER)
    assert without.p_value > 0.05
    assert together.p_value == 0.001


def test_balanced_columns(data, tmp_path):
    x = data.vectors()
    kernel = kernel_of(x, x)
    cameras = np.array(data.column("camera").to_pylist())
    each = 1 / np.array([(cameras == c).sum() for c in cameras])
    target = open_target(aim("balanced:camera"), data).of(x, LADDER, lambda p: kernel @ p)
    assert target.mean == pytest.approx(kernel @ (each / each.sum()), rel=1e-9)
    shares = tmp_path / "shares.csv"
    shares.write_text("camera,share\nb,2\na,1\nc,0\n")
    found = open_target(aim(f"balanced:camera@{shares}"), data)
    assert {c: found.masses[cameras == c].sum() for c in "abc"} == pytest.approx(
        {"a": 1 / 3, "b": 2 / 3, "c": 0}
    )
    assert found.test(x, LADDER) is None
    assert found.size is None
    assert found.inputs.keys() == {"towards_shares"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("camera,share\na,1\nb,1\n", "no share for 'c'"),
        ("camera,share\na,1\nb,1\nc,1\nd,1\n", "'d', which no sample"),
        ("camera,share\na,1\nb,1\nc,-1\n", "numbers >= 0"),
        ("camera,share\na,1\nb,1\nc,x\n", "no number"),
        ("camera,share\na,1\na,1\nc,1\n", "occurs twice"),
        ("camera,part\na,1\n", "lacks the column"),
    ],
)
def test_shares_that_are_none(data, tmp_path, content, said):
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(KdbiasError, match=said):
        open_target(aim(f"balanced:camera@{tmp_path / 's.csv'}"), data)


def test_references_that_do_not_compare(data, tmp_path):
    config = {"teacher": "torchvision:resnet18", "preprocessing": {"size": 32, "mean": [0, 0, 0]}}
    ours = table(tmp_path / "ours", config=config, inputs={"data": "1", "teacher": "aa"})

    def made(name, config=config, teacher="aa", **more):
        given = {"config": config, "inputs": {"data": name, "teacher": teacher}}
        return table(tmp_path / name, 40, 1, name, **given, **more)

    def refused(reference_table, said, to=ours):
        with pytest.raises(KdbiasError, match=said):
            open_target(aim(reference_table.path), to)

    refused(made("wide", d=7), "7 and 6 dimensions")
    refused(made("teacher", teacher="bb"), "different teachers .*fingerprint bb.*fingerprint aa")
    smaller = {**config, "preprocessing": {"size": 28, "mean": [0, 0, 0]}}
    refused(made("size", smaller), "preprocessed differently .size: 28 and 32.")
    refused(ours, "are the same table")
    refused(table(tmp_path / "again", dtype="float16"), "hold the same 60 samples", data)
    refused(table(tmp_path / "one", 1, 5, "z"), "a single sample", data)
    assert not [note for note in open_target(aim(made("good").path), ours).notes if "network" in note]
    either = {**config, "teacher": "precomputed:x.npy"}
    notes = open_target(aim(made("given", either, "cc").path), ours).notes
    assert any("must be by the same teacher" in note for note in notes)


def test_vectors_that_were_there_before_say_no_teacher(tmp_path):
    tables = []
    for name in ("one", "two"):
        x = reference.random_sphere(20, 6, len(tables))
        np.save(tmp_path / f"{name}.npy", x)
        csv = tmp_path / f"{name}.csv"
        csv.write_text("sample_id\n" + "".join(f"{name}{i}\n" for i in range(20)))
        embed(csv, tmp_path / name, teacher=f"precomputed:{tmp_path / name}.npy", same_order=True)
        tables.append(EmbeddingTable.open(tmp_path / name))
    notes = open_target(aim(tables[1].path), tables[0]).notes
    assert any("must be by the same teacher" in note for note in notes)


def test_what_is_odd_is_said(data, other, tmp_path):
    ids = [f"x{i}" for i in reversed(range(20))]
    overlapping = write_embedding_table(tmp_path / "part", ids, data.vectors()[19::-1])
    notes = open_target(aim(overlapping.path), data).notes
    assert any(
        "20 samples of the reference ('x19', 'x18', 'x17', ...) are among the data" in n for n in notes
    )
    with pytest.raises(KdbiasError, match="column 'race'"):
        open_target(aim(other.path, "race"), data)
    with pytest.raises(KdbiasError, match="no column 'race'; it has"):
        open_target(aim("balanced:race"), data)
    single = write_embedding_table(tmp_path / "s", ["a", "b"], np.eye(2), groups={"race": ["x", "x"]})
    with pytest.raises(KdbiasError, match="the value 'x' alone"):
        open_target(aim("balanced:race"), single)
    strange = write_embedding_table(
        tmp_path / "t", [f"t{i}" for i in range(30)], np.eye(30, 6) + 0.1, groups={"camera": ["a", "z"] * 15}
    )
    notes = open_target(aim(strange.path, "camera"), data).notes
    assert any("camera 'z' of the reference (50.0% of it) does not occur in the data" in n for n in notes)


def test_other_images_of_the_same_names_are_no_common_samples(data, tmp_path):
    namesakes = table(tmp_path / "namesakes", 60, 3, "x")
    assert not [note for note in open_target(aim(namesakes.path), data).notes if "among the data" in note]


def test_the_record_holds_json(data, other):
    assert json.loads(json.dumps(aim(other.path).record())) == {
        "towards": "reference",
        "with_column": None,
        "cluster_by": None,
    }


def of_persons(folder, names, each, seed, spread=0.4) -> EmbeddingTable:
    """Images near their person, persons anywhere; labels are the persons' names."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(names), 1, 6)) + spread * rng.normal(size=(len(names), each, 6))
    labels = [name for name in names for _ in range(each)]
    ids = [f"{label}/{i}" for i, label in enumerate(labels)]
    rows = reference.unit_rows(x.reshape(-1, 6)).astype("f4")
    groups = {"scene": [f"{folder.name} {i // 8}" for i in range(len(ids))]}
    return write_embedding_table(folder, ids, rows, labels=labels, groups=groups, dtype="float32")


def test_what_a_reference_is_worth_is_told_wherever_its_size_is(tmp_path):
    data = of_persons(tmp_path / "data", [f"p{i}" for i in range(60)], 5, 0)
    other = of_persons(tmp_path / "other", [f"q{i}" for i in range(40)], 4, 1)
    file, weights = tmp_path / "w.parquet", np.r_[np.full(16, 10.0), np.full(144, 1e-3)]
    pq.write_table(pa.table({"sample_id": other.ids(), "weight": weights}), file)
    for towards, by, worth in ((other.path, None, "40"), (f"{other.path}@{file}", "none", "16")):
        told = f"160 samples{' of 40 labels' if by is None else ''}, worth {worth} independent ones"
        aimed = {"towards": str(towards), "cluster_by": by}
        assert told in kdbias.uniformity(data.path, tmp_path / worth, **aimed).summary()
        assert told.replace(" of 40 labels", "") in kdbias.advise(data.path, **aimed).verdict
        made = kdbias.weights(tmp_path / worth, tmp_path / f"{worth}.parquet", **aimed)
        assert told.replace(" of 40 labels", "") in made.summary()


def test_images_of_other_persons_count_by_person(tmp_path):
    data = of_persons(tmp_path / "data", [f"p{i}" for i in range(60)], 5, 0)
    other = of_persons(tmp_path / "other", [f"q{i}" for i in range(40)], 4, 1)
    found = open_target(aim(other.path), data)
    assert found.clustered == "label"
    assert any("160 samples have 40 labels" in note for note in found.notes)
    assert found.of(data.vectors(), LADDER, lambda p: p).size == pytest.approx(40)
    assert found.test(data.vectors(), LADDER).clusters == 40
    small = "a reference of 160 samples, worth 40 independent ones is small: only large differences show"
    assert any(note.startswith(small) for note in found.notes)
    alone = open_target(Aiming(towards=str(other.path), cluster_by="none"), data)
    assert alone.clustered is None
    assert not any("small" in note for note in alone.notes)
    assert alone.of(data.vectors(), LADDER, lambda p: p).size == pytest.approx(160)
    scenes = open_target(Aiming(towards=str(other.path), cluster_by="scene"), data)
    assert scenes.of(data.vectors(), LADDER, lambda p: p).size == pytest.approx(20)


@pytest.mark.parametrize(
    ("names", "each"),
    [
        ([f"p{i}" for i in range(40)], 4),  # classes that the data have, too
        ([f"q{i}" for i in range(20)], 4),  # few
        ([f"q{i}" for i in range(40)], 1),  # none twice
    ],
)
def test_labels_that_are_no_other_persons_are_no_clusters(tmp_path, names, each):
    data = of_persons(tmp_path / "data", [f"p{i}" for i in range(60)], 5, 0)
    other = of_persons(tmp_path / "other", names, each, 1)
    assert open_target(aim(other.path), data).clustered is None


def test_samples_without_a_cluster_stand_alone(tmp_path):
    x = reference.random_sphere(9, 6, 0)
    ids = [f"s{i}" for i in range(9)]
    labels = ["a", "a", None, "b", None, "a", "b", None, "b"]
    other = write_embedding_table(tmp_path / "other", ids, x, labels=labels, dtype="float32")
    data = table(tmp_path / "data")
    found = open_target(Aiming(towards=str(other.path), cluster_by="label"), data)
    assert found.of(data.vectors(), LADDER, lambda p: p).size == pytest.approx(81 / (9 + 9 + 3))


def test_clusters_that_are_none(tmp_path, data, other):
    with pytest.raises(KdbiasError, match="no column 'person' to cluster by"):
        open_target(Aiming(towards=str(other.path), cluster_by="person"), data)
    with pytest.raises(KdbiasError, match="single value in column 'label'"):
        open_target(Aiming(towards=str(other.path), cluster_by="label"), data)
    with pytest.raises(KdbiasError, match="--cluster-by label"):
        Aiming(towards="balanced:camera", cluster_by="label")
