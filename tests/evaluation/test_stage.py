"""The stage: files, resume, refusals, the real digits."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import PROTOCOLS, evaluate
from kdbias.evaluation.task import read_embeddings
from kdbias.tables import fingerprints
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_parts import write_part
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table


@pytest.fixture
def digits(tmp_path):
    """scikit-learn's digits, even rows as gallery and odd ones to judge; an even/odd digit is the group."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x - x.mean(0)).astype(np.float32)
    for name, start in (("gallery", 0), ("model", 1)):
        rows = np.arange(start, len(x), 2)
        write_embedding_table(
            tmp_path / name,
            pa.array([f"d{i}" for i in rows]),
            x[rows],
            labels=pa.array([str(v) for v in y[rows]]),
            groups={"parity": pa.array(["even" if v % 2 == 0 else "odd" for v in y[rows]])},
        )
    return tmp_path


def test_vectors_that_where_leaves_out_are_not_read(tmp_path):
    ids, groups = pa.array(list("abcd")), {"part": pa.array(list("xyxy"))}
    table = write_embedding_table(tmp_path / "emb", ids, np.eye(4, 3) + 1, groups=groups)
    vectors = table.vectors()
    vectors[1] = np.nan
    content = write_part(table.parts[0], ids, None, groups, table.norms(), vectors, {}, flip=vectors)
    record = {**table.provenance, "fingerprint": fingerprints.of_json([content])}
    write_json(table.path / "run.json", record)
    found = read_embeddings(tmp_path / "emb", ["part=x"], flips=True)
    assert found.ids.to_pylist() == ["a", "c"]
    np.testing.assert_allclose(found.vectors, vectors[[0, 2]], atol=1e-3)
    np.testing.assert_array_equal(found.flips, found.vectors)
    with pytest.raises(KdbiasError, match="1 vector is zero or not finite"):
        read_embeddings(tmp_path / "emb")


def test_real_digits_are_told_apart_and_every_file_is_there(digits):
    out = digits / "out"
    result = evaluate(
        digits / "model",
        out,
        protocol="knn",
        gallery=digits / "gallery",
        reference=digits / "model",
        group_by=["parity"],
        bootstrap=100,
    )
    assert result.value("knn_accuracy") > 0.97
    assert 0.85 < result.value("centroid_balanced_accuracy") < 0.95
    assert result.value("centroid_tail_accuracy") is None
    assert "n/a (--tail-from names" in result.summary()
    assert result.value("distance") == pytest.approx(0, abs=1e-6)
    assert read_json(out / "metrics.json") == result.document
    units = pd.read_parquet(out / "units.parquet")
    assert units["result_knn_correct"].mean() == pytest.approx(result.value("knn_accuracy"))
    assert units.attrs["kdbias"]["stage"] == "evaluate"
    assert set(result.document["groups"]["parity"]) == {"even", "odd"}
    assert "knn_accuracy" in result.summary()
    assert (out / "accuracy_per_class.png").exists()
    assert result.document["sources"]["gallery"]["path"] == str(digits / "gallery")
    assert result.document["sources"]["gallery"]["stage"] == "embed"


def test_of_many_groups_the_summary_shows_a_few(digits):
    model = EmbeddingTable.open(digits / "model")
    fifths = {"fifth": pa.array([f"f{i % 50:02d}" for i in range(model.n)])}
    write_embedding_table(digits / "many", model.ids(), model.vectors(), groups=fifths)
    call = dict(protocol="fidelity", reference=digits / "model", group_by=["fifth"], bootstrap=0)
    text = evaluate(digits / "many", digits / "out", **call).summary()
    assert [line.split()[0] for line in text.splitlines()[-14:-1]] == [
        "fifth",
        *(f"f{i:02d}" for i in range(12)),
    ]
    assert text.endswith("... and 38 more: metrics.json has them all")


def test_same_command_again_does_nothing_and_another_is_refused(digits, capsys):
    call = dict(protocol="knn", gallery=digits / "gallery", bootstrap=20)
    first = evaluate(digits / "model", digits / "out", **call)
    stamp = (digits / "out" / "metrics.json").stat().st_mtime_ns
    again = evaluate(digits / "model", digits / "out", **call)
    assert again.document == first.document
    assert (digits / "out" / "metrics.json").stat().st_mtime_ns == stamp
    assert "finished already" in capsys.readouterr().err
    with pytest.raises(KdbiasError, match="seed: 0 -> 1"):
        evaluate(digits / "model", digits / "out", seed=1, **call)
    with pytest.raises(KdbiasError, match="input gallery"):
        evaluate(digits / "model", digits / "out", protocol="knn", gallery=digits / "model", bootstrap=20)
    other = evaluate(digits / "model", digits / "out", **(call | {"overwrite": True}), seed=1)
    assert other.value("knn_accuracy") == first.value("knn_accuracy")
    assert other.document["metrics"]["knn_accuracy"]["low"] is not None


def test_a_mistake_is_named_before_that_the_command_differs(digits):
    evaluate(digits / "model", digits / "out", bootstrap=0)
    with pytest.raises(KdbiasError, match=r"parity=odder: no sample has this value"):
        evaluate(digits / "model", digits / "out", bootstrap=0, where=["parity=odder"])
    with pytest.raises(KdbiasError, match=r"made differently \(where: \[\] -> \['parity=odd'\]\)"):
        evaluate(digits / "model", digits / "out", bootstrap=0, where=["parity=odd"])


def test_a_mistake_in_starting_over_removes_nothing(digits):
    first = evaluate(digits / "model", digits / "out", bootstrap=0)
    for mistake in ({"group_by": ["shoe"]}, {"where": ["parity=odder"]}, {"protocol": "fidelity"}):
        with pytest.raises(KdbiasError):
            evaluate(digits / "model", digits / "out", bootstrap=0, overwrite=True, **mistake)
    assert evaluate(digits / "model", digits / "out", bootstrap=0).document == first.document


def test_conditions_that_mean_the_same_are_the_same_command(digits, capsys):
    model = EmbeddingTable.open(digits / "model")
    seen = {"seen": pa.array([i % 3 > 0 for i in range(model.n)])}
    write_embedding_table(digits / "some", model.ids(), model.vectors(), model.labels(), seen)
    call = dict(gallery=digits / "some", bootstrap=0)
    first = evaluate(digits / "some", digits / "out", where=["seen=yes"], gallery_where=["seen=1"], **call)
    assert first.document["config"]["where"] == ["seen=true"]
    evaluate(digits / "some", digits / "out", where=["seen=true"], gallery_where=["seen=TRUE"], **call)
    assert "finished already" in capsys.readouterr().err


def test_starting_over_removes_the_run_s_own_plots_and_no_others(digits):
    out = digits / "out"
    evaluate(digits / "model", out, protocol="knn", bootstrap=0)
    (out / "my_slide.png").write_bytes(b"mine")
    call = dict(protocol="fidelity", reference=digits / "model", bootstrap=0, overwrite=True)
    evaluate(digits / "model", out, **call)
    assert {file.name for file in out.glob("*.png")} == {"distance_to_teacher.png", "my_slide.png"}


def test_where_picks_query_and_gallery_from_one_table(digits):
    result = evaluate(
        digits / "model",
        digits / "out",
        protocol="knn",
        where=["parity=even"],
        gallery_where=["parity=even"],
        bootstrap=0,
    )
    gallery = result.document["details"]["gallery"]
    assert gallery["classes"] == 5
    assert gallery["judged_samples_in_gallery"] == gallery["n"] == result.document["n"]
    assert result.document["metrics"]["knn_accuracy"]["low"] is None


@pytest.mark.parametrize(
    ("protocol", "metric"), [("fidelity", "distance"), ("knn", "knn_accuracy"), ("linear", "accuracy")]
)
def test_samples_of_one_person_are_resampled_together_unless_told_otherwise(tmp_path, protocol, metric):
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 6)
    x = rng.normal(size=(60, 8))[who] + rng.normal(size=(360, 8))
    miss = rng.uniform(0.1, 2, 60)[who, None] * rng.normal(size=x.shape)  # a person is easy or hard
    labels = pa.array([f"p{p}" for p in who])
    for name, rows in (("teacher", x), ("student", x + miss)):
        write_embedding_table(tmp_path / name, pa.array([f"{i}" for i in range(360)]), rows, labels)
    write_embedding_table(tmp_path / "others", pa.array([f"o{i}" for i in range(360)]), x, labels)
    role = "reference" if protocol == "fidelity" else "gallery"
    table = tmp_path / ("teacher" if protocol == "fidelity" else "others")

    def judged(name, **options):
        call = {"protocol": protocol, role: table, "bootstrap": 200} | options
        return evaluate(tmp_path / "student", tmp_path / name, **call)

    by_person, by_sample = judged("person"), judged("sample", cluster_by="")
    assert "360 samples judged, resampled by label" in by_person.summary()
    assert "360 samples judged, resampled by sample" in by_sample.summary()
    errors = [r.document["metrics"][metric]["standard_error"] for r in (by_person, by_sample)]
    assert errors[0] > 1.15 * errors[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"protocol": "nonsense"}, "choose one of knn"),
        ({"protocol": "fidelity", "k": 3}, "no option k "),
        (
            {"protocol": "verification", "gallery": "x", "reference": "y"},
            "no option (gallery|reference), ",
        ),
        (
            {"protocol": "fidelity", "reference": "x", "gallery_where": ["parity=odd"]},
            "does not read gallery_where",
        ),
        ({"protocol": "reid", "reference": "x"}, "no option reference .*camera_column"),
        ({"data": "x", "flip": True}, "does not read flip"),
        ({"precision": "bf16", "workers": 9}, r"precision, workers .* give --data"),
        ({"device": "cuda"}, "give --data"),
        ({"batch_size": 4}, "give --data"),
        ({"group_by": ["shoe"]}, "cannot group by 'shoe'"),
        ({"where": ["shoe=1"]}, "no column 'shoe'"),
        ({"where": ["parity=3"]}, "parity=3"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"id_column": "name"}, "give --data"),
    ],
)
def test_bad_requests_are_one_line(digits, options, says):
    with pytest.raises(KdbiasError, match=says) as caught:
        evaluate(digits / "model", digits / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (digits / "out").exists()  # nothing is left that would refuse the mended command


def test_a_path_that_is_no_table_is_refused(tmp_path):
    with pytest.raises(KdbiasError, match="give --data"):
        evaluate("torchvision:resnet18", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_protocol_has_its_parts():
    for name, kind in PROTOCOLS.items():
        assert kind.name == name
        assert kind.unit in {"sample", "pair", "query"}
        assert callable(kind.mathematics().judge)
        assert callable(kind.mathematics().score)
