"""Linear probe on scikit-learn's digits."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.tables.embedding_table import write_embedding_table


def test_probe_reads_digits_and_reports_the_tail(tmp_path):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x - x.mean(0)
    for name, start in (("train", 0), ("test", 1)):
        rows = np.arange(start, len(x), 2)
        labels = pa.array([str(v) for v in y[rows]])
        write_embedding_table(tmp_path / name, pa.array([f"d{i}" for i in rows]), x[rows], labels)
    result = evaluate(
        tmp_path / "test",
        tmp_path / "out",
        protocol="linear",
        gallery=tmp_path / "train",
        tail_from=tmp_path / "train",
        bootstrap=20,
    )
    assert result.value("accuracy") > 0.94
    assert abs(result.value("balanced_accuracy") - result.value("accuracy")) < 0.01
    assert 0.8 < result.value("tail_accuracy") <= 1
    assert result.document["details"]["C"] in (0.01, 0.1, 1.0, 10.0)
    with pytest.raises(KdbiasError, match="gallery is missing"):
        evaluate(tmp_path / "test", tmp_path / "o", protocol="linear")


def test_a_probe_never_learns_what_it_is_asked(tmp_path, capsys):
    """Labels at random cannot be predicted, however many dimensions there are to learn them by heart."""
    rng = np.random.default_rng(0)
    ids, labels = pa.array([f"s{i}" for i in range(200)]), pa.array([f"p{i % 10}" for i in range(200)])
    groups = {"half": pa.array(["a"] * 100 + ["b"] * 100)}
    table = write_embedding_table(tmp_path / "emb", ids, rng.normal(size=(200, 256)), labels, groups).path
    call = dict(protocol="linear", gallery=table, bootstrap=0)
    result = evaluate(table, tmp_path / "out", where=["half=a"], **call)
    assert result.value("accuracy") < 0.3
    assert result.document["details"]["gallery"]["judged_samples_left_out"] == 100
    assert "100 of the gallery's 200 rows are judged" in capsys.readouterr().err
    same = rf"all 200 .* of the gallery \(.*{table}\) are judged \(in .*{table}\).* split one by --where"
    with pytest.raises(KdbiasError, match=same):
        evaluate(table, tmp_path / "o", **call)
