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
    with pytest.raises(KdbiasError, match="needs a gallery"):
        evaluate(tmp_path / "test", tmp_path / "o", protocol="linear")
