"""Nearest class centroid and k-nearest-neighbour accuracy of embeddings.

The gallery is another table (training embeddings, or a teacher's where the student lives in its space), or
the judged table itself, leave-one-out. A sample never votes for itself: the gallery's row of the same
``sample_id`` is masked out, and taken out of its class centroid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.evaluation import fidelity
from kdbias.evaluation.inputs import Tail, rows_in, strangers, tail_of
from kdbias.evaluation.resampling import Columns, weighted_mean
from kdbias.evaluation.settings import Knn, Linear
from kdbias.evaluation.task import Embeddings, Outcome, Task, labelled, of_samples
from kdbias.progress import say
from kdbias.sphere.vectors import label_sums
from kdbias.tables.joins import encode

_NAMED = 30  # classes up to which a plot names them
_KINDS = ("centroid_", "knn_")
_BLOCK = 1 << 24  # scores held at once
_VOTE_TEMPERATURE = 0.07


def judge(options: Knn, task: Task) -> Outcome:
    """Predict each labelled sample's class by nearest centroid and by its k nearest neighbours.

    Options: ``k`` neighbours; ``tail_from``, a table whose label counts say which classes are rare (tail =
    the third of the classes with the fewest samples there); ``cluster_by``, the column to resample by
    (see :func:`kdbias.evaluation.task.clusters_of`). With a reference, the distances to the teacher are
    reported too.
    """
    k = options.k
    gallery = labelled(task.model if task.gallery is None else task.gallery)
    gallery_codes, names = classes_of(gallery)
    model, left_out = _judged(task.model, names, gallery_codes if task.gallery is None else None)
    own = rows_in(model, gallery)
    available = gallery.n - int((own >= 0).any())
    if not 1 <= k <= available:
        raise KdbiasError(
            f"k = {k}, but {gallery.name} offers 1 to {available} labelled neighbours; choose --k"
        )
    truth, _ = encode(model.labels, names)
    centroid = nearest_centroid(model.vectors, gallery.vectors, gallery_codes, own)
    voted = vote(model.vectors, gallery.vectors, gallery_codes, k, own)
    columns = {"centroid_correct": centroid == truth, "knn_correct": voted == truth}
    if task.reference is not None:
        columns |= fidelity.fidelity_columns(model, task.reference)
    outcome, tail = classified(options, model, gallery, columns)
    per_class = _class_table(outcome.columns, encode(model.labels)[1], tail)
    facts = {
        "n": gallery.n,
        "classes": len(names),
        "leave_one_out": task.gallery is None,
        "judged_samples_in_gallery": int((own >= 0).sum()),
    }
    return replace(
        outcome,
        parameters={**outcome.parameters, "distances": task.reference is not None},
        details={"k": k, "gallery": facts, "classes": per_class},
        left_out=left_out,
        plots={"accuracy_per_class": lambda axes: _draw_classes(axes, per_class)},
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Accuracies of both, and with a reference the distances to the teacher."""
    found = class_scores(columns, weights, parameters, _KINDS)
    return found | fidelity.score(columns, weights, {}) if parameters["distances"] else found


def classes_of(gallery: Embeddings) -> tuple[np.ndarray, pa.Array]:
    """Class codes (n,) of the labelled rows to learn from, and the (C,) names; refuses one class alone."""
    codes, names = encode(gallery.labels)
    if len(names) < 2:
        raise KdbiasError(f"two classes or more are needed; {gallery.name} has only {names.to_pylist()}")
    return codes, names


def classified(
    options: Knn | Linear, model: Embeddings, gallery: Embeddings, columns: Columns
) -> tuple[Outcome, Tail]:
    """The outcome of predicted labels, and the tail among the labels of the judged samples.

    Args:
        columns: ``KIND_correct`` or ``correct`` -> (n,) bool, whether the label of a sample is predicted; and
            further results.
    """
    # Classes of the judged samples, whether or not the gallery has them.
    classes, names = encode(model.labels)
    tail = tail_of(options.tail_from, names)
    common = of_samples(model, options.cluster_by)
    failing = [name.replace("correct", "tail_accuracy") for name in columns if name.endswith("correct")]
    outcome = Outcome(
        **common,
        columns={"class": classes, "tail": tail.mask[classes], **columns},
        parameters={"tail": tail.none_why is None, "classes_drawn": common["resampled"] == "label"},
        test_data={"gallery": (gallery.ids, gallery.labels), "labels": (model.ids, model.labels)},
        reasons=dict.fromkeys(failing, tail.none_why) if tail.none_why else {},
    )
    return outcome, tail


def class_scores(
    columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any], kinds: Sequence[str] = ("",)
) -> dict[str, float]:
    """Accuracy, balanced accuracy (mean of the class accuracies), and that of the tail classes, by kind."""
    classes, tail, drawn = columns["class"], columns["tail"], parameters["classes_drawn"]
    found: dict[str, float] = {}
    for kind in kinds:
        right = columns[f"{kind}correct"].astype(np.float64)
        found[f"{kind}accuracy"] = weighted_mean(right, weights)
        found[f"{kind}balanced_accuracy"] = balanced_accuracy(right, classes, weights, drawn)
        rare = balanced_accuracy(right[tail], classes[tail], weights[tail], drawn)
        found[f"{kind}tail_accuracy"] = rare if parameters["tail"] else float("nan")
    return found


def balanced_accuracy(
    correct: np.ndarray, classes: np.ndarray, weights: np.ndarray, classes_drawn: bool = False
) -> float:
    """Mean over the classes present (weight > 0) of their weighted accuracy; NaN where there is none.

    Args:
        correct, classes, weights: (n,) each.
        classes_drawn: whole classes were resampled, so that each counts as often as it was drawn.
    """
    mass = np.bincount(classes, weights)
    right = np.bincount(classes, weights * correct)
    present = mass > 0
    if not present.any():
        return float("nan")
    drawn = (mass / np.maximum(np.bincount(classes), 1))[present] if classes_drawn else None
    return float(np.average(right[present] / mass[present], weights=drawn))


def nearest_centroid(
    queries: np.ndarray, gallery: np.ndarray, codes: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """Class whose mean direction has the largest cosine with each query.

    Args:
        queries: (m, d) float32 unit rows.
        gallery: (n, d) float32 unit rows.
        codes: (n,) class of each gallery row, 0 ... C - 1, every class present.
        own: (m,) gallery row that is the query itself, -1 where there is none. It is taken out of its class's
            centroid; a class that loses its only sample cannot win.

    Returns:
        (m,) int64 class codes; of equally near classes the first.
    """
    sizes = np.bincount(codes)
    sums = label_sums(gallery, codes, len(sizes))
    directions = _unit(sums).astype(np.float32)
    predicted = np.empty(len(queries), dtype=np.int64)
    rows = max(1, _BLOCK // len(sums))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        cosines = block @ directions.T
        if own is not None:
            mine = own[start : start + rows]
            at = np.flatnonzero(mine >= 0)
            home = codes[mine[at]]
            rest = _unit(sums[home] - gallery[mine[at]])
            cosines[at, home] = np.where(sizes[home] > 1, np.einsum("ij,ij->i", block[at], rest), -np.inf)
        predicted[start : start + rows] = cosines.argmax(axis=1)
    return predicted


def vote(
    queries: np.ndarray, gallery: np.ndarray, codes: np.ndarray, k: int, own: np.ndarray | None = None
) -> np.ndarray:
    """Class with the most votes among the k gallery rows of largest cosine.

    A neighbour's vote weighs exp(cosine / 0.07), the weighted k-NN of Wu et al., "Unsupervised feature
    learning via non-parametric instance discrimination" (CVPR 2018). Arguments as :func:`nearest_centroid`.
    """
    predicted = np.empty(len(queries), dtype=np.int64)
    rows = max(1, min(_BLOCK // len(gallery), _BLOCK // k**2))
    for start in range(0, len(queries), rows):
        mine = None if own is None else own[start : start + rows]
        neighbors, cosines = top_k(queries[start : start + rows], gallery, k, mine)
        labels = codes[neighbors]
        votes = np.exp((cosines - cosines[:, :1]) / _VOTE_TEMPERATURE)
        same = labels[:, :, None] == labels[:, None, :]
        totals = np.einsum("ijk,ik->ij", same, votes)
        predicted[start : start + rows] = labels[np.arange(len(labels)), totals.argmax(axis=1)]
    return predicted


def top_k(
    queries: np.ndarray, gallery: np.ndarray, k: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and cosines of the k nearest gallery rows, nearest first, never the query's own row.

    Returns:
        (m, k) int64 rows and (m, k) float32 cosines.
    """
    cosines = queries @ gallery.T
    if own is not None:
        at = np.flatnonzero(own >= 0)
        cosines[at, own[at]] = -np.inf
    if k < len(gallery):
        rows = np.argpartition(cosines, -k, axis=1)[:, -k:]
    else:
        rows = np.broadcast_to(np.arange(len(gallery)), cosines.shape)
    near = np.take_along_axis(cosines, rows, axis=1)
    order = np.lexsort((rows, -near), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(near, order, axis=1)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) at length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def _judged(
    model: Embeddings, names: pa.Array, leave_one_out_codes: np.ndarray | None
) -> tuple[Embeddings, dict[str, int]]:
    """The samples to judge. A class absent from a given gallery counts as errors, never as left out."""
    known = labelled(model)
    left_out = {"no_label": model.n - known.n, "only_sample_of_its_class": 0}
    codes, _ = encode(known.labels, names)
    if leave_one_out_codes is not None:
        keep = np.bincount(leave_one_out_codes)[codes] > 1
        left_out["only_sample_of_its_class"] = int((~keep).sum())
        if not keep.any():
            raise KdbiasError(
                f"{model.name}: every label has one sample; leave-one-out needs two, or a --gallery"
            )
        return known.take(np.flatnonzero(keep)), left_out
    say_absent_classes(known, names)
    return known, left_out


def say_absent_classes(model: Embeddings, names: pa.Array) -> None:
    """Say how many labelled samples are of no class among the gallery's ``names``, where some are.

    Raises:
        KdbiasError: all of them, or a class that is spelled otherwise in the gallery.
    """
    where = (model.name, "the gallery")
    absent = strangers(model.labels, names, "labels", where, "are both of the same data?")
    if absent.any():
        say(f"{absent.sum():,} of {model.n:,} samples are of classes that the gallery lacks: errors")


def _class_table(columns: Columns, names: pa.Array, tail: Tail) -> list[dict[str, Any]]:
    """One row a class: samples, counts in the training data and accuracies."""
    sizes = np.bincount(columns["class"], minlength=len(names))
    found = {kind: np.bincount(columns["class"], columns[f"{kind}correct"]) / sizes for kind in _KINDS}
    return [
        {
            "label": name,
            "n": int(sizes[i]),
            "natural_count": None if tail.counts is None else int(tail.counts[i]),
            "tail": None if tail.counts is None else bool(tail.mask[i]),
            **{f"{kind}accuracy": float(rates[i]) for kind, rates in found.items()},
        }
        for i, name in enumerate(names.to_pylist())
    ]


def _draw_classes(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Accuracy of each class by name, or of many classes its distribution."""
    counted, few = rows[0]["natural_count"] is not None, len(rows) <= _NAMED
    rows = sorted(rows, key=lambda row: (-(row["natural_count"] or 0), row["label"]))
    looks = (("o-", "nearest centroid"), ("s--", "k nearest neighbours"))
    for kind, (style, label) in zip(_KINDS, looks, strict=True):
        values = [row[f"{kind}accuracy"] for row in rows]
        if few:
            axes.plot(values, style, label=label)
        else:
            axes.plot(np.linspace(0, 100, len(rows)), sorted(values), style[1:], label=label)
    if few:
        axes.set_xticks(range(len(rows)), [row["label"] for row in rows], rotation=45, ha="right")
        axes.set_xlabel("class, most frequent first" if counted else "class")
    else:
        axes.set_xlabel(f"{len(rows):,} classes, worst first (%)")
    axes.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    axes.legend()
