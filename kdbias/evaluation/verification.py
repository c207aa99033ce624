"""1:1 verification over folds, as LFW, CFP-FP, AgeDB-30 and their relatives are reported.

Conventions differ, and their numbers must not be mixed:

- ``insightface``: both views of an image are added where the table has them (``embedding_flip``; how, says
  ``flip_fusion``: :mod:`kdbias.evaluation.task`), the score is a squared Euclidean distance of unit vectors,
  the threshold the one of 0, 0.01, ... 3.99 that is most accurate on the other folds; mean and population
  standard deviation over folds.
- ``facex`` (FaceX-Zoo): one view, cosine, the threshold with the largest TPR - FPR on the other folds among
  1,000 steps over the span of their scores; mean and standard error over folds (ddof 1).
- ``exact``: as insightface, but the threshold is the most accurate one between any two scores of the other
  folds (of several, the middle one). A step of 0.01 can cost a fold: on LFW with a good teacher, up to 1 %.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.evaluation import roc as curves
from kdbias.evaluation.pairs import Pairs, read_pairs
from kdbias.evaluation.resampling import Columns, take, weighted_mean
from kdbias.evaluation.settings import Rfw, Verification
from kdbias.evaluation.task import Embeddings, Outcome, Plot, Task, Views, codes_of, products, views_of
from kdbias.progress import say
from kdbias.tables.joins import as_strings


def judge(options: Verification, task: Task) -> Outcome:
    """Accept or reject each pair at the threshold that its fold's complement chooses.

    Options: ``pairs``, the list (see :func:`kdbias.evaluation.pairs.read_pairs`); ``folds``, those to use;
    ``style``; ``flip_fusion``, ``raw`` (default) or ``unit``; ``far``, operating points, of which the last
    gives the one threshold at which ``fmr`` and ``fnmr`` of all groups are taken; ``cluster_by``, the column
    of the subject (pairs are resampled by subject; "" = pair by pair).
    """
    fars = sorted(set(options.far))
    pairs = read_pairs(options.pairs, options.folds)
    rows = pairs.rows(task.model.ids, task.model.name)
    columns, details = compare_pairs(options, task.model, pairs, rows)
    order = np.argsort(-columns["score"], kind="stable")  # sorted once, so that no resample has to
    columns, pairs, rows = take(columns, order), pairs.take(order), rows[order]
    roc = curves.roc_curve(columns["score"], columns["same"])
    threshold = float(roc.thresholds[curves.threshold_index(roc, fars[-1])])
    columns["accepted"] = columns["score"] >= threshold
    details["operating_point"] = {
        "far": fars[-1],
        "threshold": threshold if np.isfinite(threshold) else None,
        "note": "fmr and fnmr of all groups: at this threshold, the loosest with FAR <= far over all pairs",
    }
    return Outcome(
        **of_pairs(options, task.model, pairs, rows),
        columns=columns,
        groups={name: common_value(values, rows) for name, values in task.model.groups.items()},
        parameters={"far": fars},
        details=details,
        plots=[
            Plot("roc", lambda axes: draw_roc(axes, columns)),
            Plot("scores", lambda axes: _draw_scores(axes, columns, threshold)),
        ],
    )


def score(columns: Columns, weights: np.ndarray, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy over folds, TAR at FAR, AUC, EER, and error rates at the common threshold.

    Pairs sorted by descending score, as :func:`judge` leaves them, spare a sort.
    """
    roc = curves.roc_curve(columns["score"], columns["same"], weights)
    same = columns["same"]
    found = {"accuracy": fold_accuracy(columns, weights)}
    for name, far in zip(curves.tar_names(parameters["far"], "at-most"), parameters["far"], strict=True):
        found[name] = curves.tar_at_most(roc, far) if np.isfinite(roc.tar).all() else float("nan")
    accepted = columns["accepted"].astype(np.float64)
    found |= {
        "auc": curves.area(roc),
        "eer": curves.equal_error_rate(roc),
        "fmr": weighted_mean(accepted[~same], weights[~same]),
        "fnmr": weighted_mean(1 - accepted[same], weights[same]),
    }
    return found


def fold_accuracy(columns: Columns, weights: np.ndarray) -> float:
    """Mean over folds of the weighted share of pairs decided rightly."""
    mass = np.bincount(columns["fold"], weights)
    right = np.bincount(columns["fold"], weights * columns["correct"])
    present = mass > 0
    return float(np.mean(right[present] / mass[present])) if present.any() else float("nan")


def compare_pairs(
    options: Verification | Rfw, model: Embeddings, pairs: Pairs, rows: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Per pair ``score`` (cosine), ``same``, ``fold`` (from 0) and ``correct``; details of the folds.

    Says how many pairs the list calls the same person's and the labels do not.
    """
    equal = pc.equal(*(model.labels.take(pa.array(side)) for side in rows.T))
    differ = pc.fill_null(pc.invert(equal), False).to_numpy(zero_copy_only=False) & pairs.same
    if differ.any():
        say(
            f"{differ.sum():,} of {pairs.same.sum():,} pairs that the list calls the same have two labels in "
            f"{model.name}; the list counts"
        )
    style = options.style
    views = views_of(model, options.flip_fusion, mirrored=style != "facex")
    scores = pair_cosines(views, *rows.T)
    _, fold = np.unique(pairs.folds, return_inverse=True)
    correct, thresholds = curves.decisions(style, scores, pairs.same, fold)
    accuracies = np.bincount(fold, correct) / np.bincount(fold)
    spread = (
        {"fold_standard_error": float(accuracies.std(ddof=1) / np.sqrt(len(accuracies)))}
        if style == "facex"
        else {"fold_std": float(accuracies.std())}
    )
    details = {
        "style": style,
        **views.details(),
        "genuine": int(pairs.same.sum()),
        "impostor": int((~pairs.same).sum()),
        "folds": [
            {"fold": int(name), "accuracy": float(accuracy), "threshold": float(threshold)}
            for name, accuracy, threshold in zip(np.unique(pairs.folds), accuracies, thresholds, strict=True)
        ],
        **spread,
    }
    columns = {"score": scores, "same": pairs.same, "fold": fold, "correct": correct}
    return columns, details


def pair_cosines(views: Views, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m,) float64 cosines of the rows ``first`` and ``second``."""
    used, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    vectors = views.unit(used)
    cosines = products(vectors, vectors, places[: len(first)], places[len(first) :])
    return np.clip(cosines.astype(np.float64), -1, 1)


def of_pairs(
    options: Verification | Rfw, model: Embeddings, pairs: Pairs, rows: np.ndarray
) -> dict[str, Any]:
    """What outcomes of pairs have in common: ids, and both subjects of each pair as (m, 2) clusters."""
    found = {"ids": {"first": pairs.first, "second": pairs.second}}
    column = options.cluster_by
    if not column or (column == "label" and model.labels.null_count == model.n):
        return {**found, "resampled": "pair"}
    # Subjects that no pair has would be drawn in vain.
    _, dense = np.unique(codes_of(model.column(column))[rows.T], return_inverse=True)
    clusters = dense.reshape(2, -1).T.copy()
    return {**found, "clusters": clusters, "resampled": f"{column} (both subjects of a pair)"}


def common_value(values: pa.Array, rows: np.ndarray) -> pa.Array:
    """The value that both samples of a pair share, null where they differ."""
    first, second = (as_strings(values).take(pa.array(side)) for side in rows.T)
    return pc.if_else(pc.equal(first, second), first, pa.scalar(None, first.type))


def draw_roc(axes: Any, columns: Columns) -> None:
    """Draw the true by the false accept rate (logarithmic) from columns score and same, (pairs,)."""
    roc = curves.roc_curve(columns["score"], columns["same"])
    least = 1 / max(1, int((~columns["same"]).sum()))
    far = np.maximum(roc.far, least / 2)
    # A few thousand points, evenly over the logarithmic axis, draw millions.
    shown = np.searchsorted(far, np.geomspace(least / 2, 1, 4000), side="right") - 1
    shown = np.unique(np.clip(shown, 0, len(far) - 1))
    axes.plot(far[shown], roc.tar[shown], drawstyle="steps-post")
    axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate")


def _draw_scores(axes: Any, columns: Columns, threshold: float) -> None:
    """Draw histograms of both kinds of pairs and the operating point, a cosine."""
    bins = np.linspace(columns["score"].min(), columns["score"].max() + 1e-9, 60)
    for kind, chosen in (("different", ~columns["same"]), ("same", columns["same"])):
        axes.hist(columns["score"][chosen], bins=bins, alpha=0.6, label=kind)
    if np.isfinite(threshold):
        axes.axvline(threshold, color="black", linewidth=1, label="operating point")
    axes.set(xlabel="cosine", ylabel="pairs")
    axes.legend()
