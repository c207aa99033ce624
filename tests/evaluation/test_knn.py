"""Nearest centroid and k-NN against scikit-learn and cases worked by hand."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import class_counts, tail_classes, tail_of
from kdbias.evaluation.knn import balanced_accuracy, nearest_centroid, top_k, vote
from kdbias.evaluation.settings import Knn
from kdbias.evaluation.task import Embeddings, Task
from kdbias.tables.embedding_table import write_embedding_table


def _unit(x):
    x = np.asarray(x, dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _embeddings(vectors, labels, ids=None, name="table"):
    n = len(vectors)
    return Embeddings(
        name,
        pa.array(ids or [f"s{i}" for i in range(n)], pa.large_string()),
        pa.array(labels, pa.large_string()),
        {},
        np.ones(n, np.float32),
        _unit(vectors),
        "f",
    )


def _blobs(n, classes, d=16, seed=0, noise=0.6):
    rng = np.random.default_rng(seed)
    codes = rng.integers(classes, size=n)
    codes[:classes] = np.arange(classes)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return _unit(centres[codes] + noise * rng.normal(size=(n, d))), codes


def test_predictions_equal_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    gallery, codes = _blobs(300, 7, seed=1, noise=1.5)
    queries, _ = _blobs(90, 7, seed=2, noise=1.5)
    peer = KNeighborsClassifier(9, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(gallery, codes)
    assert np.array_equal(vote(queries, gallery, codes, 9), peer.predict(queries))
    means = np.stack([gallery[codes == c].astype(float).mean(0) for c in range(7)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert np.array_equal(nearest_centroid(queries, gallery, codes), (queries @ means.T).argmax(1))


def test_leave_one_out_equals_removing_the_sample():
    x, codes = _blobs(80, 4, noise=1.5)
    own = np.arange(80)
    voted, central = vote(x, x, codes, 5, own), nearest_centroid(x, x, codes, own)
    for i in range(80):
        rest = np.delete(np.arange(80), i)
        assert voted[i] == vote(x[i : i + 1], x[rest], codes[rest], 5)[0]
        assert central[i] == nearest_centroid(x[i : i + 1], x[rest], codes[rest])[0]


def test_self_is_masked_by_id_even_among_duplicates():
    x = _unit([[1, 0], [1, 0], [1, 0], [0, 1]])
    rows, cosines = top_k(x, x, 3, np.arange(4))
    assert rows[0].tolist() == [1, 2, 3]
    assert rows[2].tolist() == [0, 1, 3]
    assert cosines[1, :2].tolist() == [1, 1]


def test_a_class_that_loses_its_only_sample_cannot_win():
    x = _unit([[1, 0.1], [0, 1], [0.1, 1]])
    assert nearest_centroid(x, x, np.array([0, 1, 1]), np.arange(3))[0] == 1


def test_metrics_of_a_case_worked_by_hand(tmp_path):
    # gallery: a on the x axis, b on the y axis, c on the z axis
    gallery = _embeddings(np.eye(3), ["a", "b", "c"], ["g0", "g1", "g2"], "gallery")
    model = _embeddings(
        [[1, 0.2, 0], [1, 0.1, 0], [1, 0, 0.3], [0.2, 1, 0], [1, 0.5, 0], [0, 1, 0.2]],
        ["a", "a", "a", "b", "b", "c"],
    )
    counts = tmp_path / "counts"
    write_embedding_table(counts, pa.array(list("0123456")), np.eye(7), pa.array(list("aaaabbc")))
    outcome = Knn(k=1, tail_from=str(counts)).judge(Task(model, gallery=gallery))
    found = Knn.score(outcome.columns, np.ones(6), outcome.parameters)
    assert found["centroid_accuracy"] == found["knn_accuracy"] == pytest.approx(4 / 6)
    assert found["knn_balanced_accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["centroid_tail_accuracy"] == 0
    tail = {row["label"]: (row["tail"], row["natural_count"]) for row in outcome.details["classes"]}
    assert tail == {"a": (False, 4), "b": (False, 2), "c": (True, 1)}


def test_a_class_missing_in_the_gallery_counts_as_wrong():
    gallery = _embeddings(np.eye(3)[:2], ["a", "b"], ["g0", "g1"])
    model = _embeddings(np.eye(3), ["a", "b", "c"])
    outcome = Knn(k=1).judge(Task(model, gallery=gallery))
    assert outcome.n == 3
    assert Knn.score(outcome.columns, np.ones(3), outcome.parameters)["knn_accuracy"] == pytest.approx(2 / 3)


def test_leave_one_out_leaves_out_what_has_no_answer_and_says_so():
    model = _embeddings(np.eye(5) + 0.5, ["a", "a", "b", None, "b"])
    assert Knn(k=1).judge(Task(model)).left_out == {
        "no_label": 1,
        "only_sample_of_its_class": 0,
    }
    lonely = _embeddings(np.eye(4) + 0.5, ["a", "a", "b", "b2"])
    assert Knn(k=1).judge(Task(lonely)).left_out["only_sample_of_its_class"] == 2


@pytest.mark.parametrize(
    ("labels", "k", "says"),
    [
        (["a", "a", "a"], 1, "two classes"),
        (["a", "a", "b"], 3, "k = 3"),
        (["a", "a", "b"], 0, "k is 0"),
        ([None, None, None], 1, "no labels"),
        (["a", "b", "c"], 1, "one sample"),
    ],
)
def test_refusals_name_the_values(labels, k, says):
    with pytest.raises(KdbiasError, match=says):
        Knn(k=k).judge(Task(_embeddings(np.eye(3), labels)))


def test_another_dimension_or_foreign_labels_are_refused():
    model = _embeddings(np.eye(3), ["a", "b", "c"])
    with pytest.raises(KdbiasError, match=r"3 dimensions, .* 4"):
        Knn().judge(Task(model, gallery=_embeddings(np.eye(4), list("abcd"))))
    with pytest.raises(KdbiasError, match="none of the 3 labels"):
        Knn(k=1).judge(Task(model, gallery=_embeddings(np.eye(3), ["x", "y", "y"], ["g", "h", "i"])))


def test_balanced_accuracy_equals_scikit_learn_under_weights():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=200)
    predicted = np.where(rng.random(200) < 0.7, truth, (truth + 1) % 4)
    weights = rng.integers(1, 4, size=200).astype(float)
    found = balanced_accuracy((predicted == truth).astype(float), truth, weights)
    assert found == pytest.approx(balanced_accuracy_score(truth, predicted, sample_weight=weights))


def test_classes_of_one_size_have_no_tail(tmp_path):
    table = tmp_path / "even"
    write_embedding_table(table, pa.array(list("012345")), np.eye(6), pa.array(list("aabbcc")))
    model = _embeddings(np.eye(6) + 0.1, list("aabbcc"))
    outcome = Knn(k=1, tail_from=str(table)).judge(Task(model))
    assert "each of the 3 classes has 2 rows" in outcome.reasons["knn_tail_accuracy"]
    assert np.isnan(Knn.score(outcome.columns, np.ones(6), outcome.parameters)["knn_tail_accuracy"])
    assert [row["tail"] for row in outcome.details["classes"]] == [False] * 3
    missing = tail_of(None, pa.array(["a", "b"]))
    assert (missing.counts, missing.mask.tolist()) == (None, [False, False])
    assert tail_of(str(table), pa.array(["a", "b", "z"], pa.large_string())).mask.tolist() == [0, 0, 1]


def test_tail_is_the_rarest_third_rounded_up(tmp_path):
    assert tail_classes(np.array([5, 1, 9, 1, 3, 0, 7])).tolist() == [0, 1, 0, 1, 0, 1, 0]
    table = write_embedding_table(tmp_path / "t", pa.array(list("12345")), np.eye(5), pa.array(list("xxyzz")))
    assert class_counts(table.path, pa.array(["w", "x", "z"], pa.large_string())).tolist() == [0, 2, 2]
    with pytest.raises(KdbiasError, match="none of the 1 labels"):
        class_counts(table.path, pa.array(["w"], pa.large_string()))


def test_many_classes_are_drawn_as_a_distribution_and_few_by_name():
    from matplotlib.figure import Figure

    def drawn(classes):
        rng = np.random.default_rng(0)
        labels = [f"c{i:02d}" for i in range(classes)] * 3
        judged = Knn().judge(Task(_embeddings(_unit(rng.normal(size=(3 * classes, 4))), labels)))
        axes = Figure().add_subplot()
        judged.plots["accuracy_per_class"](axes)
        return axes

    axes = drawn(40)
    assert axes.get_xlabel() == "40 classes, worst first (%)"
    for line in axes.get_lines():
        assert (np.diff(line.get_ydata()) >= 0).all()
    assert [text.get_text() for text in drawn(3).get_xticklabels()] == ["c00", "c01", "c02"]
